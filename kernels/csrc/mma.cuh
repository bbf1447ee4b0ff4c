// Products of a tile of 16 rows with 8 queries, on tensor cores: FP16 into FP32, INT8 into INT32.
//
// A lane hands in 16 rows' numbers as 4-byte words (2 FP16 or 4 INT8): a[0] of row g, a[1] of row
// g + 8, a[2] and a[3] the same rows further on; b[0] and b[1] of query g, in the same places. It
// gets sums of rows g (0, 1) and g + 8 (2, 3) with queries 2 t (0, 2) and 2 t + 1 (1, 3), where
// g = lane / 4 and t = lane % 4. Which numbers are multiplied is up to the caller: an inner product
// does not mind the order of its terms, so a lane may hold any, if rows and queries agree.
//
// sm_75 has the instructions at half or a quarter of the depth. The twin does the same by shuffles;
// it is what a host compiler takes.
#pragma once
#include "device.cuh"

struct Halves {
    using Number = __half;
    using Sum = float;
    static constexpr bool SCALED = false;

    __device__ static float dot(unsigned a, unsigned b) {
        const float low = __half2float(__ushort_as_half(static_cast<unsigned short>(a))) *
                          __half2float(__ushort_as_half(static_cast<unsigned short>(b)));
        const float high = __half2float(__ushort_as_half(static_cast<unsigned short>(a >> 16))) *
                           __half2float(__ushort_as_half(static_cast<unsigned short>(b >> 16)));
        return low + high;
    }

#ifdef __CUDACC__
    __device__ static void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
        }
#endif
    }
#endif
};

struct Codes {
    using Number = int8_t;
    using Sum = int;
    static constexpr bool SCALED = true;

    __device__ static int dot(unsigned a, unsigned b) {
        int sum = 0;
#pragma unroll
        for (int i = 0; i < 32; i += 8) {
            sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
        }
        return sum;
    }

#ifdef __CUDACC__
    __device__ static void multiply(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
        for (int part = 0; part < 4; ++part) {  // rows g and g + 8 by turns
            const int i = 2 * (part & 1);
            asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+r"(c[i]), "+r"(c[i + 1])
                : "r"(a[part]), "r"(b[part / 2]));
        }
#endif
    }
#endif
};

// The twin of Type::multiply: every lane fetches the words that its four sums take.
template <class Type>
struct Twin : Type {
    __device__ static void multiply(typename Type::Sum (&c)[4], const unsigned (&a)[4],
                                    const unsigned (&b)[2]) {
        const int g = lane() >> 2, t = lane() & 3;
        for (int from = 0; from < 4; ++from) {
            for (int part = 0; part < 2; ++part) {
                const unsigned upper = __shfl_sync(WARP, a[2 * part], 4 * g + from);
                const unsigned lower = __shfl_sync(WARP, a[2 * part + 1], 4 * g + from);
                const unsigned even = __shfl_sync(WARP, b[part], 8 * t + from);
                const unsigned odd = __shfl_sync(WARP, b[part], 8 * t + 4 + from);
                c[0] += Type::dot(upper, even);
                c[1] += Type::dot(upper, odd);
                c[2] += Type::dot(lower, even);
                c[3] += Type::dot(lower, odd);
            }
        }
    }
};
