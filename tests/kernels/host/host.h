// Runs kernels on a host: what device.cuh needs of CUDA, in plain C++17.
//
// The blocks of a launch run one after another. The threads of a block are fibres on one stack
// each, and only one runs: it goes on until it must wait for others (a barrier, a shuffle, a
// ballot), then the next one in turn runs. So memory needs no locks, and what a missing barrier
// leaves to chance depends on the order of the threads alone, which is the caller's to choose:
// a kernel that is right gives the same in every order. Threads that wait for one another for ever
// end the process with a word, and shared memory begins as garbage.
//
// Not shown by this: races between warps that run at once, memory order between multiprocessors,
// tensor cores (the twin runs), speed.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#if !defined(__x86_64__) && !defined(PLAIN_SWITCH)
#define PLAIN_SWITCH  // by the C library: right everywhere, and slow
#endif
#if defined(PLAIN_SWITCH)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __device__
#define __host__
using std::max;
using std::min;

struct Place {
    unsigned x, y, z;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

inline Place threadIdx, blockIdx, blockDim, gridDim;

namespace host {

struct Launch {  // as the test gives it
    unsigned grid[3];
    unsigned threads;
    unsigned shared_bytes;
    int order;  // of the threads and blocks: 0 forward, 1 backward, others shuffled by this seed
};

constexpr size_t STACK = 64 << 10;

struct Fibre {
    unsigned char* stack = nullptr;
    size_t size = 0;
    void* pointer = nullptr;  // where it stands, on its stack
    void* fake = nullptr;     // AddressSanitizer's notes about it
    unsigned shown = 0;       // words that it has shown to its warp
    bool done = false;
#if defined(PLAIN_SWITCH)
    ucontext_t context;
#endif
};

struct Barrier {
    unsigned arrived = 0;
    unsigned passed = 0;  // how often all have
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<Barrier> warps;
    Barrier all;
    Fibre home;        // who launched
    unsigned now = 0;  // the running thread
    std::function<void()> body;
    unsigned char* shared = nullptr;
    uint64_t words[2][1024];  // what each thread shows the others of its warp, by turns
    int vote = 0;
    bool moved = false;  // something happened since the first thread's last turn
};

inline Block* block = nullptr;

inline Fibre& self() {
    return block->fibres[block->now];
}

#if !defined(PLAIN_SWITCH)
// Stores what a call must keep on the stack, and goes on where another stack stands.
extern "C" void host_switch(void** from, void* to);
asm(R"(
    .text
    .weak host_switch
    .type host_switch, @function
host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size host_switch, .-host_switch
)");
#endif

inline void change(Fibre& from, Fibre& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from.done ? nullptr : &from.fake, to.stack, to.size);
#endif
#if !defined(PLAIN_SWITCH)
    host_switch(&from.pointer, to.pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &block->home.size);
    block->home.stack = static_cast<unsigned char*>(const_cast<void*>(bottom));
#endif
    block->body();
    self().done = block->moved = true;
    change(self(), block->home);
    abort();
}

inline void prepare(Fibre& fibre) {
#if !defined(PLAIN_SWITCH)
    void** top = reinterpret_cast<void**>(fibre.stack + STACK) - 2;
    *top = reinterpret_cast<void*>(&enter);  // where the first switch returns to
    fibre.pointer = top - 6;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
#endif
    fibre.done = false;
}

inline void wait(Barrier& barrier, unsigned count) {
    const unsigned passed = barrier.passed;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        ++barrier.passed;
        block->moved = true;
    }
    while (barrier.passed == passed) {
        change(self(), block->home);
    }
}

// Shows a word to the warp and returns where the warp's words lie until the next but one.
inline const uint64_t* show(uint64_t word) {
    uint64_t* words = block->words[self().shown++ & 1];
    words[block->now] = word;
    wait(block->warps[block->now / 32], 32);
    return words + (block->now & ~31u);
}

inline std::vector<int> turns(int count, int order) {
    std::vector<int> all(count);
    std::iota(all.begin(), all.end(), 0);
    if (order == 1) {
        std::reverse(all.begin(), all.end());
    }
    uint64_t state = order;
    for (int i = count - 1; order > 1 && i > 0; --i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(all[i], all[(state >> 33) % (i + 1)]);
    }
    return all;
}

inline void run_block(const std::vector<int>& order) {
    for (Fibre& fibre : block->fibres) {
        prepare(fibre);
    }
    for (bool alive = true; alive;) {
        alive = block->moved = false;
        for (int i : order) {
            if (!block->fibres[i].done) {
                alive = true;
                block->now = i;
                threadIdx = {static_cast<unsigned>(i), 0, 0};
                change(block->home, block->fibres[i]);
            }
        }
        if (alive && !block->moved) {
            fprintf(stderr, "block (%u, %u): its threads wait for one another\n", blockIdx.x,
                    blockIdx.y);
            abort();
        }
    }
}

// Runs a kernel whose every thread calls `body`.
inline void run(const Launch& launch, std::function<void()> body) {
    static std::vector<std::unique_ptr<unsigned char[]>> stacks;
    Block own;
    block = &own;
    own.body = std::move(body);
    own.fibres.resize(launch.threads);
    own.warps.resize(launch.threads / 32);
    for (unsigned i = 0; i < launch.threads; ++i) {
        if (stacks.size() == i) {
            stacks.emplace_back(new unsigned char[STACK]);
        }
        own.fibres[i].stack = stacks[i].get();
        own.fibres[i].size = STACK;
    }
    // Of its very size, so that AddressSanitizer sees who reads behind it.
    own.shared = static_cast<unsigned char*>(aligned_alloc(16, (launch.shared_bytes + 15) & ~15u));
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    blockDim = {launch.threads, 1, 1};
    const std::vector<int> order = turns(launch.threads, launch.order);
    const unsigned x = gridDim.x, y = gridDim.y;
    for (unsigned i : turns(x * y * gridDim.z, launch.order)) {
        blockIdx = {i % x, i / x % y, i / x / y};
        memset(own.shared, 0xA5, launch.shared_bytes);
        run_block(order);
    }
    free(own.shared);
    block = nullptr;
}

}  // namespace host

// A kernel is a C function of its arguments and the launch, and tells how large the arguments are.
#define KERNEL(name, Arguments, threads, blocks)                              \
    static void name##_thread(const Arguments& a);                            \
    extern "C" const int name##_bytes;                                        \
    const int name##_bytes = sizeof(Arguments);                               \
    extern "C" void name(const void* arguments, const host::Launch* launch) { \
        const Arguments copy = *static_cast<const Arguments*>(arguments);     \
        host::run(*launch, [&copy] { name##_thread(copy); });                 \
    }                                                                         \
    static void name##_thread(const Arguments& a)

inline unsigned char* shared_memory() {
    return host::block->shared;
}

inline void __threadfence() {}

inline void __syncwarp() {
    host::wait(host::block->warps[threadIdx.x / 32], 32);
}

inline void __syncthreads() {
    host::wait(host::block->all, blockDim.x);
}

inline int __syncthreads_or(int vote) {
    host::block->vote |= vote;
    __syncthreads();
    const int found = host::block->vote;
    __syncthreads();
    host::block->vote = 0;
    __syncthreads();
    return found;
}

template <class Word>
Word __shfl_sync(unsigned, Word word, int from) {
    static_assert(sizeof(Word) <= 8, "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &word, sizeof(Word));
    memcpy(&word, host::show(bits) + (from & 31), sizeof(Word));
    return word;
}

template <class Word>
Word __shfl_xor_sync(unsigned mask, Word word, int apart) {
    return __shfl_sync(mask, word, (threadIdx.x & 31) ^ apart);
}

inline unsigned __ballot_sync(unsigned, bool vote) {
    const uint64_t* votes = host::show(vote);
    unsigned found = 0;
    for (int i = 0; i < 32; ++i) {
        found |= static_cast<unsigned>(votes[i]) << i;
    }
    return found;
}

template <class Number>
Number atomicAdd(Number* at, Number by) {
    const Number before = *at;
    *at += by;
    return before;
}

inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

inline int __ffs(unsigned bits) {
    return __builtin_ffs(static_cast<int>(bits));
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint4 __ldcs(const uint4* at) {
    return *at;
}

using __half = _Float16;

inline float __half2float(__half x) {
    return x;
}

inline __half __float2half_rn(float x) {
    return static_cast<__half>(x);
}

inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    memcpy(&x, &bits, 2);
    return x;
}
