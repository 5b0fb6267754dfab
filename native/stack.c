/*
 * Stacks of our own for threads that have only a small one for their signals. Our handler runs on the alternate stack of a thread where it has one (SA_ONSTACK): the
 * fault may have come on a stack that must not be touched, as in Go. Runtimes of other languages make those stacks 8 KiB, of which the kernel's frame takes 3.4 with
 * AVX-512; making room in a budget needs more than is left. Without a lock: a stack belongs to the place that its thread has in the table of threads.
 *
 * A fault on one of these stacks is one inside our own handler: the kernel then begins at the top of the alternate stack again, over frames that are no longer needed,
 * because the process ends.
 */
#include "stack.h"
#include "os.h"
#include "thread.h"

#include <stddef.h>

#define ROOM ((size_t)65536) /* of each; reserved for all, used by few */
#define SHORT 16384

static void *stacks;

int pf_stack_prepare(void) { return stacks != NULL ? 0 : pf_mem_reserve(PF_THREADS_MAX * ROOM, "pagefault stacks", &stacks); }

bool pf_stack_is_short(const ucontext_t *uc) {
  uintptr_t here = (uintptr_t)__builtin_frame_address(0), start = (uintptr_t)uc->uc_stack.ss_sp; /* the kernel's frame says which stack the thread has */
  return here - start < uc->uc_stack.ss_size && here - start < SHORT;
}

#if defined(__x86_64__) || defined(__aarch64__)

void pf__call_on(void *top, void (*function)(void *), void *data);

#if defined(__x86_64__)
__asm__(
    ".pushsection .text\n"
    ".globl pf__call_on\n"
    ".hidden pf__call_on\n"
    ".type pf__call_on, @function\n"
    "pf__call_on:\n"
    "  .cfi_startproc\n"
    "  push %rbp\n"
    "  .cfi_def_cfa_offset 16\n"
    "  .cfi_offset %rbp, -16\n"
    "  mov %rsp, %rbp\n"
    "  .cfi_def_cfa_register %rbp\n" /* so that debuggers find their way back */
    "  mov %rdi, %rsp\n"
    "  mov %rdx, %rdi\n"
    "  call *%rsi\n"
    "  leave\n"
    "  .cfi_def_cfa %rsp, 8\n"
    "  ret\n"
    "  .cfi_endproc\n"
    ".size pf__call_on, .-pf__call_on\n"
    ".popsection\n");
#else
__asm__(
    ".pushsection .text\n"
    ".globl pf__call_on\n"
    ".hidden pf__call_on\n"
    ".type pf__call_on, %function\n"
    "pf__call_on:\n"
    "  .cfi_startproc\n"
    "  stp x29, x30, [sp, #-16]!\n"
    "  .cfi_def_cfa_offset 16\n"
    "  .cfi_offset 29, -16\n"
    "  .cfi_offset 30, -8\n"
    "  mov x29, sp\n"
    "  .cfi_def_cfa_register 29\n"
    "  mov sp, x0\n"
    "  mov x0, x2\n"
    "  blr x1\n"
    "  mov sp, x29\n"
    "  ldp x29, x30, [sp], #16\n"
    "  ret\n"
    "  .cfi_endproc\n"
    ".size pf__call_on, .-pf__call_on\n"
    ".popsection\n");
#endif

void pf_stack_run(size_t index, void (*function)(void *), void *data) {
  pf__call_on((char *)stacks + (index + 1) * ROOM, function, data);
}

#else

void pf_stack_run(size_t index, void (*function)(void *), void *data) {
  (void)index;
  function(data);
}

#endif
