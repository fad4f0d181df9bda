// How the process's allocator treats large tensors.
#pragma once

namespace bitstair::core {

// Makes freed memory stay in the process: a training step allocates and frees the same large tensors again and again, and each time the kernel would have to
// clear their pages anew (measured on ResNet-20: a tenth of the step). Call once, early. Nothing outside glibc.
void KeepFreedMemory();

}  // namespace bitstair::core
