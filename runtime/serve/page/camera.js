/** The camera: a live picture in a dialog, and a frame of it. */

const REFUSALS = {
  NotAllowedError: "The browser may not use the camera. Allow it, or upload a picture.",
  NotFoundError: "There is no camera here. Upload a picture.",
  NotReadableError: "Something else uses the camera. Close it, or upload a picture.",
};

export class Camera {
  #stream = null;

  /** `onFrame` takes the frame that the video shows; then the camera is let go. */
  constructor(dialog, onFrame) {
    this.dialog = dialog;
    this.video = dialog.querySelector("#finder");
    this.problem = dialog.querySelector("#camera-problem");
    this.shutter = dialog.querySelector("#shutter");
    dialog.querySelector("#camera-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop());
    this.shutter.addEventListener("click", async () => {
      await onFrame(this.video);
      dialog.close();
    });
  }

  /** Tell whether the browser lends its camera to this page: over TLS or on this machine. */
  static get isLent() {
    return Boolean(navigator.mediaDevices?.getUserMedia);
  }

  get isOpen() {
    return this.dialog.open;
  }

  close() {
    if (this.isOpen) this.dialog.close();
  }

  async open() {
    this.problem.hidden = true;
    this.shutter.disabled = true;
    this.dialog.showModal();
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 1280 } } };
      this.#stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (!this.isOpen) return this.#stop(); // closed before the camera was there
      this.video.srcObject = this.#stream;
      await this.video.play();
      this.shutter.disabled = false;
      this.shutter.focus();
    } catch (error) {
      this.#stop();
      this.problem.textContent = REFUSALS[error.name] ?? `The camera failed: ${error.message}`;
      this.problem.hidden = false;
    }
  }

  #stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }
}
