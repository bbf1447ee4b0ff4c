// What every kernel stands on: how it is declared, sums over a warp, the last block of a launch.
//
// A kernel takes one struct by value, whose twin in Python is a ctypes.Structure. All shared memory
// is dynamic. A host compiler takes the same sources with the tests' host.h, which plays the
// threads of a block one after another.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define KERNEL(name, Arguments, threads, blocks)                  \
    extern "C" __global__ void __launch_bounds__(threads, blocks) \
        name(const __grid_constant__ Arguments a)
extern __shared__ uint4 dynamic_shared[];
__device__ inline unsigned char* shared_memory() {
    return reinterpret_cast<unsigned char*>(dynamic_shared);
}
#else
#include "host.h"
#endif

constexpr unsigned WARP = 0xffffffffu;  // all lanes take part

__device__ inline int lane() {
    return threadIdx.x & 31;
}

__device__ inline int warp() {
    return threadIdx.x >> 5;
}

__device__ inline float to_float(float x) {
    return x;
}

__device__ inline float to_float(__half x) {
    return __half2float(x);
}

// The sum over a warp, in every lane; always added in the same order.
template <class Number>
__device__ inline Number warp_sum(Number x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        x += __shfl_xor_sync(WARP, x, apart);
    }
    return x;
}

template <class Number>
__device__ inline Number warp_max(Number x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        const Number other = __shfl_xor_sync(WARP, x, apart);
        x = other > x ? other : x;
    }
    return x;
}

// True in all threads of the last of `blocks` blocks to come here: what the others wrote to global
// memory before is visible to it. `arrivals` is 0 before the launch and again after it, so two
// launches that share it must not overlap. `flag` is one word of shared memory.
__device__ inline bool is_last_block(unsigned* arrivals, unsigned blocks, unsigned* flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *flag = atomicAdd(arrivals, 1u) == blocks - 1;
        if (*flag) {
            *arrivals = 0;
        }
    }
    __syncthreads();
    __threadfence();
    return *flag;
}
