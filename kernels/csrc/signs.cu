// scan_b1: the rows whose signs agree most with a query's, the first of a search in two steps.
//
//   score = dim - 2 popcount(q ^ x)        equal signs less unequal ones
//
// A lane takes a whole row, 16 bytes at a time; queries are in shared memory. Ties are many: the
// lower row goes first, as everywhere.
//
// Reads 32 bytes of a row of 256: 0.13 GB for 4 M rows.
#include "scan.cuh"

__device__ inline void scan_bits(const ScanArguments& a) {
    unsigned char* shared = shared_memory();
    const int places = min(64, a.batch), group = blockIdx.y * 64;
    Queue queue = open_queue(a, shared + places * a.row_bytes, places, group);
    load_group(a, group, places, a.row_bytes, reinterpret_cast<uint32_t*>(shared));
    __syncthreads();
    const uint4* queries = reinterpret_cast<const uint4*>(shared);
    const int pieces = a.row_bytes / 16;
    const int2 own = stretch(*a.count, gridDim.x);
    for (int round = own.x; round < own.y; round += ROUND) {
        for (int tile = 0; tile < TILES; ++tile) {
            const int first = round + 32 * (SCAN_WARPS * tile + warp()), row = first + lane();
            const unsigned live = first < own.y ? live_rows(a, first, own.y) : 0;
            if (live >> lane() & 1) {
                const uint4* bits = reinterpret_cast<const uint4*>(a.rows + row * a.row_stride);
                for (int q = 0; q < queue.queries; ++q) {
                    int unequal = 0;
                    for (int i = 0; i < pieces; ++i) {
                        const uint4 x = bits[i], y = queries[q * pieces + i];
                        unequal += __popc(x.x ^ y.x) + __popc(x.y ^ y.y) + __popc(x.z ^ y.z) +
                                   __popc(x.w ^ y.w);
                    }
                    const float score = static_cast<float>(a.dim - 2 * unequal);
                    if (score >= queue.scores[q] && !(a.exclude && a.exclude[group + q] == row)) {
                        queue.push(q, score, row);
                    }
                }
            }
        }
        queue.settle(ROUND);
    }
    leave_queue(a, queue, group);
}

KERNEL(scan_b1_64, ScanArguments, SCAN_THREADS, 2) {
    scan_bits(a);
}
