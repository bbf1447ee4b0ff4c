/** A picture of the shopper's own, made small here before it is sent. */

const LONGEST = 1024; // pixels a side; no engine looks at more
const QUALITY = 0.9;

/** A reference that is sent as bytes; `url` shows it, from when it is first read to its release. */
export class Photo {
  #url = null;

  constructor(blob) {
    this.blob = blob;
  }

  get url() {
    return (this.#url ??= URL.createObjectURL(this.blob));
  }

  release() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }
}

/**
 * Return the photo of a file or of a video's frame: upright, on white, at most LONGEST a side, and
 * without what else a camera writes into its files. A file that the browser cannot read is sent as
 * it is, so that the server says what is wrong with it.
 */
export async function photoOf(source) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, { imageOrientation: "from-image" });
  } catch {
    return new Photo(source);
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Photo(await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY)));
}
