// A score and its row as one number: the greater key is the better one, the lower row among equals.
//
//   key = order(score) << 32 | ~row        order keeps float order as unsigned integers
//
// Rows differ, so no two keys are equal. 0 is no key: it is below that of every number.
#pragma once
#include "device.cuh"

using Key = unsigned long long;

__device__ inline Key key_of(float score, int row) {
    const unsigned bits = __float_as_uint(score);
    const unsigned order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<Key>(order) << 32 | ~static_cast<unsigned>(row);
}

__device__ inline int row_of(Key key) {
    return key ? static_cast<int>(~static_cast<unsigned>(key)) : -1;
}

__device__ inline float score_of(Key key) {
    const unsigned order = static_cast<unsigned>(key >> 32);
    const unsigned bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    return __uint_as_float(key ? bits : 0xff800000u);  // minus infinity for no key
}

// The least power of two from 2 on that is not below a size.
__device__ inline int power_of_two(int size) {
    int power = 2;
    while (power < size) {
        power *= 2;
    }
    return power;
}

// Sorts `size` keys in shared memory, best first; size is a power of two. All threads of the block
// call it; a barrier stands at its beginning and at its end. Bitonic: each thread swaps pairs.
__device__ inline void sort_keys(Key* keys, int size) {
    for (int run = 2; run <= size; run *= 2) {
        for (int apart = run / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
                const int i = 2 * pair - (pair & (apart - 1));
                const Key a = keys[i], b = keys[i + apart];
                const bool descending = (i & run) == 0;
                if (descending ? a < b : a > b) {
                    keys[i] = b;
                    keys[i + apart] = a;
                }
            }
        }
    }
    __syncthreads();
}

// Writes the first `k` sorted keys as rows and scores; -1 and minus infinity where keys ran out.
__device__ inline void write_keys(const Key* keys, int k, int* rows, float* scores) {
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        rows[i] = row_of(keys[i]);
        scores[i] = score_of(keys[i]);
    }
}
