// For loops of the CPU kernels: compiled once per instruction set, chosen when the program starts. The results are equal on all of them, since
// contraction is off, reassociation is off, and every sum names its own order.
#pragma once

// The resolver behind target_clones runs before a sanitizer's runtime is ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BITSTAIR_CPU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define BITSTAIR_CPU_CLONES
#endif
