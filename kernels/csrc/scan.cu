// scan: the rows with the greatest inner products, for up to 64 queries in one reading of them.
//
//   score = q . x                          FP16 rows and queries, FP32 sums
//   score = (q . x) s_q s_x                INT8 rows and queries with their scales, exact sums
//
// The scores are never written: what each block found best is left for scan_merge. A row counts
// where its bit in `live` is set and it is not the one that its query excludes. Ties go to the
// lower row; NaN and minus infinity are never found.
//
// A warp takes 32 rows at a time, in 64-byte pieces: lane (g, t) = (lane / 4, lane % 4) loads 16
// bytes, number t of the piece, of rows g, g + 8, g + 16 and g + 24, and 16 bytes of query g out of
// shared memory. These are fragments of the tensor core's product as they come, so that it serves
// one query too: 7 of 8 columns idle, yet there are fewer instructions than with plain sums.
//
// Reads every live row once: 2 GB for 4 M rows of 256 in FP16. It should reach 80 % of the copy
// bandwidth at any number of queries.
#include "mma.cuh"
#include "scan.cuh"

// Bytes from a query to the next in shared memory: two queries apart fall on other banks.
__device__ inline int query_pitch(int row_bytes) {
    return row_bytes % 128 ? row_bytes : row_bytes + 64;
}

// Adds the products of 32 rows and 8 GROUPS queries: sums[m][n] of rows 16 m... with queries 8 n...
template <class Type, int GROUPS, int AHEAD>
__device__ void multiply_tile(const ScanArguments& a, const uint4* queries, int pitch, int first,
                              int end, typename Type::Sum (&sums)[2][GROUPS][4]) {
    const int g = lane() >> 2, t = lane() & 3;
    const uint4* rows = reinterpret_cast<const uint4*>(a.rows + first * a.row_stride) + t;
    const int stride = static_cast<int>(a.row_stride / 16);
    int offsets[4];  // of rows behind the end, which are not pushed: that of the last one
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        offsets[i] = min(g + 8 * i, end - 1 - first) * stride;
    }
    const int pieces = a.row_bytes / 64;
    for (int piece = 0; piece < pieces; piece += AHEAD) {
        uint4 x[AHEAD][4];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                x[j][i] = make_uint4(0, 0, 0, 0);
                if (piece + j < pieces) {
                    x[j][i] = __ldcs(rows + offsets[i] + 4 * (piece + j));
                }
            }
        }
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
            if (piece + j < pieces) {
#pragma unroll
                for (int n = 0; n < GROUPS; ++n) {
                    const uint4 q = queries[(8 * n + g) * (pitch / 16) + 4 * (piece + j) + t];
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const uint4 &upper = x[j][2 * m], &lower = x[j][2 * m + 1];
                        Type::multiply(sums[m][n], {upper.x, lower.x, upper.y, lower.y},
                                       {q.x, q.y});
                        Type::multiply(sums[m][n], {upper.z, lower.z, upper.w, lower.w},
                                       {q.z, q.w});
                    }
                }
            }
        }
    }
}

// Pushes those of a tile's scores that reach their query's floor.
template <class Type, int GROUPS>
__device__ void push_tile(const ScanArguments& a, const typename Type::Sum (&sums)[2][GROUPS][4],
                          const float* scales, int group, int first, unsigned live, Queue& queue) {
    const int g = lane() >> 2, t = lane() & 3;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = first + g + 8 * i;
        if (live >> (g + 8 * i) & 1) {
            const float row_scale = Type::SCALED ? a.row_scales[row] : 1.0f;
#pragma unroll
            for (int n = 0; n < GROUPS; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const int q = 8 * n + 2 * t + c;
                    float score = sums[i / 2][n][2 * (i & 1) + c];
                    if (Type::SCALED) {
                        score *= scales[q] * row_scale;
                    }
                    if (score >= queue.scores[q] && !(a.exclude && a.exclude[group + q] == row)) {
                        queue.push(q, score, row);
                    }
                }
            }
        }
    }
}

template <class Type, int GROUPS, int AHEAD>
__device__ void scan(const ScanArguments& a) {
    unsigned char* shared = shared_memory();
    constexpr int PLACES = 8 * GROUPS;
    const int group = blockIdx.y * PLACES, pitch = query_pitch(a.row_bytes);
    unsigned char* behind = shared + PLACES * pitch;
    float* scales = reinterpret_cast<float*>(behind + PLACES * Queue::SHARED_BYTES);
    load_group(a, group, PLACES, pitch, reinterpret_cast<typename Type::Number*>(shared));
    Queue queue = open_queue(a, behind, PLACES, group);
    for (int q = threadIdx.x; Type::SCALED && q < PLACES; q += SCAN_THREADS) {
        scales[q] = group + q < a.batch ? a.query_scales[group + q] : 0.0f;
    }
    __syncthreads();
    const int2 own = stretch(*a.count, gridDim.x);
    for (int round = own.x; round < own.y; round += ROUND) {
        for (int tile = 0; tile < TILES; ++tile) {
            const int first = round + 32 * (SCAN_WARPS * tile + warp());
            const unsigned live = first < own.y ? live_rows(a, first, own.y) : 0;
            if (live) {
                typename Type::Sum sums[2][GROUPS][4] = {};
                multiply_tile<Type, GROUPS, AHEAD>(a, reinterpret_cast<const uint4*>(shared), pitch,
                                                   first, own.y, sums);
                push_tile<Type, GROUPS>(a, sums, scales, group, first, live, queue);
            }
        }
        queue.settle(ROUND);
    }
    leave_queue(a, queue, group);
}

#ifdef __CUDACC__
template <class Type>
using Product = Type;
#else
template <class Type>
using Product = Twin<Type>;
#endif

// Blocks of a multiprocessor: sm_75 splits an INT8 product in four and needs more registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int SHARE = 1;
#else
constexpr int SHARE = 2;
#endif

// scan_{numbers}_{queries}: up to so many queries for one reading of the rows.
KERNEL(scan_f16_8, ScanArguments, SCAN_THREADS, 2) {
    scan<Product<Halves>, 1, 3>(a);
}
KERNEL(scan_f16_16, ScanArguments, SCAN_THREADS, 2) {
    scan<Product<Halves>, 2, 2>(a);
}
KERNEL(scan_f16_32, ScanArguments, SCAN_THREADS, 2) {
    scan<Product<Halves>, 4, 2>(a);
}
KERNEL(scan_f16_64, ScanArguments, SCAN_THREADS, 1) {
    scan<Product<Halves>, 8, 2>(a);
}
KERNEL(scan_i8_8, ScanArguments, SCAN_THREADS, 2) {
    scan<Product<Codes>, 1, 3>(a);
}
KERNEL(scan_i8_16, ScanArguments, SCAN_THREADS, 2) {
    scan<Product<Codes>, 2, 2>(a);
}
KERNEL(scan_i8_32, ScanArguments, SCAN_THREADS, SHARE) {
    scan<Product<Codes>, 4, 2>(a);
}
KERNEL(scan_i8_64, ScanArguments, SCAN_THREADS, 1) {
    scan<Product<Codes>, 8, 2>(a);
}
