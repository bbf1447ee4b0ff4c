// What all scans share: their arguments, a block's queries, its stretch of rows, its queues.
//
// A block takes a stretch of rows of its own, ROUND rows between two looks at its queues; a warp
// takes 32 rows at a time, as many as a word of the bitmap tells of.
#pragma once
#include "queue.cuh"

constexpr int SCAN_THREADS = 256;
constexpr int SCAN_WARPS = SCAN_THREADS / 32;
constexpr int TILES = 2;                        // of 32 rows, for each warp in a round
constexpr int ROUND = TILES * SCAN_WARPS * 32;  // rows that a block may push before it settles

struct ScanArguments {
    const void* queries;        // (batch, query_stride) numbers, or words of sign bits
    const float* query_scales;  // (batch), INT8 alone
    const unsigned char* rows;  // (capacity, row_stride) bytes, 16-byte aligned, zeros behind dim
    const float* row_scales;    // (capacity), INT8 alone
    const int* count;           // one number on the GPU: rows that there are
    const uint32_t* live;       // a bit for each row, lowest first; or null: all
    const int* exclude;         // (batch) a row or -1; or null
    Key* keys;                  // (blocks, batch, queue) scratch
    int* counts;                // (blocks, batch) scratch
    Key* best;                  // (blocks, batch) scratch
    int* found;                 // (batch, k) rows, best first
    float* scores;              // (batch, k)
    int64_t row_stride;         // bytes, a multiple of 16
    int query_stride;           // numbers or words
    int query_length;           // numbers or words of a query
    int row_bytes;              // that are scored: a multiple of 64, of 16 for sign bits
    int dim;                    // numbers behind the sign bits
    int batch;
    int k;
    int queue;   // keys that a queue holds
    int blocks;  // of the first pass, for each group of queries
};

// Copies a group's queries to shared memory, with zeros behind them and for those missing.
template <class Number>
__device__ void load_group(const ScanArguments& a, int first, int places, int pitch, Number* out) {
    const int length = pitch / static_cast<int>(sizeof(Number));
    const Number* queries = static_cast<const Number*>(a.queries);
    for (int i = threadIdx.x; i < places * length; i += SCAN_THREADS) {
        const int64_t query = first + i / length;
        const int k = i % length;
        const bool there = query < a.batch && k < a.query_length;
        out[i] = there ? queries[query * a.query_stride + k] : Number(0);
    }
}

// Which of 32 rows from `first` on, a multiple of 32, may be found.
__device__ inline unsigned live_rows(const ScanArguments& a, int first, int end) {
    const unsigned live = a.live ? a.live[first / 32] : ~0u;
    return end - first < 32 ? live & ((1u << (end - first)) - 1) : live;
}

// The stretch of rows of this block: its first row and the one behind its last.
__device__ inline int2 stretch(int count, int blocks) {
    const int tiles = count / 32 + (count % 32 != 0);
    const int each = tiles / blocks + (tiles % blocks != 0);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * each * 32;
    const int64_t end = first + static_cast<int64_t>(each) * 32;
    return make_int2(static_cast<int>(first < count ? first : count),
                     static_cast<int>(end < count ? end : count));
}

// The queue of this block and group, its queries from `group` on; all threads make the same.
__device__ inline Queue open_queue(const ScanArguments& a, unsigned char* shared, int places,
                                   int group) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * a.batch + group;
    return Queue(shared, places, a.keys + at * a.queue, min(places, a.batch - group), a.queue, a.k);
}

// Leaves for the second pass what is in the queues, how much that is, and its best.
__device__ inline void leave_queue(const ScanArguments& a, Queue& queue, int group) {
    queue.settle(a.queue - a.k - QUEUE_SPARE);
    for (int q = warp(); q < queue.queries; q += SCAN_WARPS) {
        const int64_t at = static_cast<int64_t>(blockIdx.x) * a.batch + group + q;
        const Key best = queue.best(q);
        if (lane() == 0) {
            a.counts[at] = queue.counts[q];
            a.best[at] = best;
        }
    }
}
