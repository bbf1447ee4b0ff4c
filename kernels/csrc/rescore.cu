// rescore: exact scores of a few candidates of each query, and their final order, in one launch.
//
//   score = q . x        q FP32, x FP32 or FP16 from the full-precision store, sums in FP32
//
// Block (slice, query): 32 candidates, four to a warp at once, lane l holding numbers l, l + 32,
// ... of each. The query's last block sorts all keys in shared memory. The store may be host memory
// that the GPU reads through the bus.
//
// Reads each candidate's row once: 0.1 MB for 100 rows of 256 in FP32. Bound by latency.
#include "key.cuh"

constexpr int RESCORE_THREADS = 256;
constexpr int RESCORE_EACH = 4;  // candidates of a warp
constexpr int RESCORE_SLICE = RESCORE_THREADS / 32 * RESCORE_EACH;
constexpr int RESCORE_MOST = 1024;  // candidates of a query

struct RescoreArguments {
    const float* queries;   // (batch, query_stride)
    const void* rows;       // (count, row_stride) FP32 or FP16, aligned to their numbers
    const int* candidates;  // (batch, candidates) rows, -1 for none
    Key* keys;              // (batch, candidates) scratch
    unsigned* arrivals;     // (batch) zeros before and after
    int* found;             // (batch, k) rows, best first
    float* scores;          // (batch, k)
    int64_t query_stride;   // numbers
    int64_t row_stride;     // numbers
    int batch;
    int dim;
    int count;  // candidates of a query
    int k;
};

template <class Number>
__device__ void score_candidates(const RescoreArguments& a, int first) {
    const float* query = a.queries + blockIdx.y * a.query_stride;
    const int64_t at = static_cast<int64_t>(blockIdx.y) * a.count;
    int candidates[RESCORE_EACH];
    const Number* rows[RESCORE_EACH];
#pragma unroll
    for (int i = 0; i < RESCORE_EACH; ++i) {
        candidates[i] = first + i < a.count ? a.candidates[at + first + i] : -1;
        const int64_t row = max(candidates[i], 0);
        rows[i] = static_cast<const Number*>(a.rows) + row * a.row_stride;
    }
    float sums[RESCORE_EACH] = {};
#pragma unroll 2
    for (int k = lane(); k < a.dim; k += 32) {
        const float q = query[k];
#pragma unroll
        for (int i = 0; i < RESCORE_EACH; ++i) {
            if (candidates[i] >= 0) {
                sums[i] += q * to_float(rows[i][k]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < RESCORE_EACH; ++i) {
        const float score = warp_sum(sums[i]);
        if (lane() == 0 && first + i < a.count) {
            const bool there = candidates[i] >= 0 && score >= __uint_as_float(0xff7fffffu);
            a.keys[at + first + i] = there ? key_of(score, candidates[i]) : 0;
        }
    }
}

template <class Number>
__device__ void rescore(const RescoreArguments& a) {
    unsigned char* shared = shared_memory();
    Key* keys = reinterpret_cast<Key*>(shared);  // (RESCORE_MOST) and a flag
    score_candidates<Number>(a, blockIdx.x * RESCORE_SLICE + warp() * RESCORE_EACH);
    const int query = blockIdx.y;
    unsigned* flag = reinterpret_cast<unsigned*>(keys + RESCORE_MOST);
    if (is_last_block(a.arrivals + query, gridDim.x, flag)) {
        const int size = power_of_two(a.count);
        for (int i = threadIdx.x; i < size; i += RESCORE_THREADS) {
            keys[i] = i < a.count ? a.keys[static_cast<int64_t>(query) * a.count + i] : 0;
        }
        sort_keys(keys, size);
        const int64_t at = static_cast<int64_t>(query) * a.k;
        write_keys(keys, a.k, a.found + at, a.scores + at);
    }
}

KERNEL(rescore_f32, RescoreArguments, RESCORE_THREADS, 1) {
    rescore<float>(a);
}
KERNEL(rescore_f16, RescoreArguments, RESCORE_THREADS, 1) {
    rescore<__half>(a);
}
