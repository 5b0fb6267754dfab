/* One load whose address and length are known, so that a handler can step over it. In one file of a test only. */
#ifndef PF_TEST_KNOWN_H
#define PF_TEST_KNOWN_H

#include <stdint.h>
#include <ucontext.h>

#if defined(__x86_64__)
#define KNOWN_INSTRUCTION 1
uint8_t known_load(const void *addr);
extern const char known_instruction[];
__asm__(".text\nknown_load:\nknown_instruction:\n  movb (%rdi), %al\n  ret\n");
#define KNOWN_LENGTH 2
static uintptr_t *instruction_of(ucontext_t *uc) { return (uintptr_t *)&uc->uc_mcontext.gregs[REG_RIP]; }
static void set_result(ucontext_t *uc, uint8_t value) { uc->uc_mcontext.gregs[REG_RAX] = value; }
#elif defined(__aarch64__)
#define KNOWN_INSTRUCTION 1
uint8_t known_load(const void *addr);
extern const char known_instruction[];
__asm__(".text\nknown_load:\nknown_instruction:\n  ldrb w0, [x0]\n  ret\n");
#define KNOWN_LENGTH 4
static uintptr_t *instruction_of(ucontext_t *uc) { return (uintptr_t *)&uc->uc_mcontext.pc; }
static void set_result(ucontext_t *uc, uint8_t value) { uc->uc_mcontext.regs[0] = value; }
#else
#define KNOWN_INSTRUCTION 0
#define known_load(addr) touch_address(addr)
#endif

#endif
