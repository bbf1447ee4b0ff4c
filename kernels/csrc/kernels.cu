// All kernels as one source: one fatbin.
#include "compose.cu"
#include "merge.cu"
#include "rescore.cu"
#include "scan.cu"
#include "signs.cu"
