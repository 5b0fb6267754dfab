/* sanitizers: none */
/*
 * What the interrupted code has in its registers, its flags and errno is there again after a fault. Not under sanitizers: they change what
 * the touching function keeps in registers, and there is nothing of ours in it to watch.
 */
#include "support.h"

static void errno_survives(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS(.readahead = -1));
  for (uint64_t page = 0; page < 64; page++) {
    errno = 1000 + (int)page;
    touch(region, page * PAGE);
    EXPECT_EQ(errno, 1000 + (int)page);
  }
  EXPECT(close_region(region));
  pf_source_t source = file_source(PAGE);
  source.check = false;
  region = open_region(backend, source, 4 * PAGE, OPTIONS(.store_length = 4 * PAGE, .unreadable_zero = true));
  errno = 77;
  EXPECT_EQ(touch(region, 2 * PAGE), 0); /* a fault that fails */
  EXPECT_EQ(errno, 77);
  EXPECT(close_region(region));
}

#if defined(__x86_64__)

typedef struct {
  uint64_t general[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8 … r15; rsp is not set */
  uint64_t flags;
  uint32_t mxcsr, unused;
  uint8_t vector[16][32];
} state_t;

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

/* Loads everything from `in`, reads the byte at in->general[RDI] into al, and stores everything to `out`. */
void touch_with(const state_t *in, state_t *out, int with_avx);

__asm__(
    ".text\n"
    "touch_with:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  sub $24, %rsp\n" /* out, mxcsr, with_avx */
    "  mov %rsi, (%rsp)\n"
    "  stmxcsr 8(%rsp)\n"
    "  mov %edx, 16(%rsp)\n"
    "  ldmxcsr 136(%rdi)\n"
    "  test %edx, %edx\n"
    "  jz 1f\n"
    "  vmovdqu 144(%rdi), %ymm0; vmovdqu 176(%rdi), %ymm1; vmovdqu 208(%rdi), %ymm2; vmovdqu 240(%rdi), %ymm3\n"
    "  vmovdqu 272(%rdi), %ymm4; vmovdqu 304(%rdi), %ymm5; vmovdqu 336(%rdi), %ymm6; vmovdqu 368(%rdi), %ymm7\n"
    "  vmovdqu 400(%rdi), %ymm8; vmovdqu 432(%rdi), %ymm9; vmovdqu 464(%rdi), %ymm10; vmovdqu 496(%rdi), %ymm11\n"
    "  vmovdqu 528(%rdi), %ymm12; vmovdqu 560(%rdi), %ymm13; vmovdqu 592(%rdi), %ymm14; vmovdqu 624(%rdi), %ymm15\n"
    "  jmp 2f\n"
    "1:\n"
    "  movdqu 144(%rdi), %xmm0; movdqu 176(%rdi), %xmm1; movdqu 208(%rdi), %xmm2; movdqu 240(%rdi), %xmm3\n"
    "  movdqu 272(%rdi), %xmm4; movdqu 304(%rdi), %xmm5; movdqu 336(%rdi), %xmm6; movdqu 368(%rdi), %xmm7\n"
    "  movdqu 400(%rdi), %xmm8; movdqu 432(%rdi), %xmm9; movdqu 464(%rdi), %xmm10; movdqu 496(%rdi), %xmm11\n"
    "  movdqu 528(%rdi), %xmm12; movdqu 560(%rdi), %xmm13; movdqu 592(%rdi), %xmm14; movdqu 624(%rdi), %xmm15\n"
    "2:\n"
    "  mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
    "  mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
    "  mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
    "  mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
    "  pushq 128(%rdi)\n"
    "  mov 56(%rdi), %rdi\n"
    "  popfq\n"
    "  movb (%rdi), %al\n" /* the fault */
    "  pushfq\n"
    "  push %rdi\n"
    "  mov 16(%rsp), %rdi\n" /* out */
    "  mov %rax, 0(%rdi); mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi)\n"
    "  mov %rbp, 40(%rdi); mov %rsi, 48(%rdi)\n"
    "  mov %r8, 64(%rdi); mov %r9, 72(%rdi); mov %r10, 80(%rdi); mov %r11, 88(%rdi)\n"
    "  mov %r12, 96(%rdi); mov %r13, 104(%rdi); mov %r14, 112(%rdi); mov %r15, 120(%rdi)\n"
    "  popq 56(%rdi)\n"
    "  popq 128(%rdi)\n"
    "  cld\n"
    "  stmxcsr 136(%rdi)\n"
    "  ldmxcsr 8(%rsp)\n"
    "  cmpl $0, 16(%rsp)\n"
    "  jz 3f\n"
    "  vmovdqu %ymm0, 144(%rdi); vmovdqu %ymm1, 176(%rdi); vmovdqu %ymm2, 208(%rdi); vmovdqu %ymm3, 240(%rdi)\n"
    "  vmovdqu %ymm4, 272(%rdi); vmovdqu %ymm5, 304(%rdi); vmovdqu %ymm6, 336(%rdi); vmovdqu %ymm7, 368(%rdi)\n"
    "  vmovdqu %ymm8, 400(%rdi); vmovdqu %ymm9, 432(%rdi); vmovdqu %ymm10, 464(%rdi); vmovdqu %ymm11, 496(%rdi)\n"
    "  vmovdqu %ymm12, 528(%rdi); vmovdqu %ymm13, 560(%rdi); vmovdqu %ymm14, 592(%rdi); vmovdqu %ymm15, 624(%rdi)\n"
    "  vzeroupper\n"
    "  jmp 4f\n"
    "3:\n"
    "  movdqu %xmm0, 144(%rdi); movdqu %xmm1, 176(%rdi); movdqu %xmm2, 208(%rdi); movdqu %xmm3, 240(%rdi)\n"
    "  movdqu %xmm4, 272(%rdi); movdqu %xmm5, 304(%rdi); movdqu %xmm6, 336(%rdi); movdqu %xmm7, 368(%rdi)\n"
    "  movdqu %xmm8, 400(%rdi); movdqu %xmm9, 432(%rdi); movdqu %xmm10, 464(%rdi); movdqu %xmm11, 496(%rdi)\n"
    "  movdqu %xmm12, 528(%rdi); movdqu %xmm13, 560(%rdi); movdqu %xmm14, 592(%rdi); movdqu %xmm15, 624(%rdi)\n"
    "4:\n"
    "  add $24, %rsp\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "  ret\n");

#define ARITHMETIC 0x8d5u /* CF, PF, AF, ZF, SF, OF */
#define DIRECTION 0x400u

static void everything_survives(pf_backend_t backend) {
  enum { PAGES = 64 };
  pf_region_t *region = open_region(backend, file_source(PAGES * PAGE), PAGES * PAGE, OPTIONS());
  uint64_t seed = 20240517;
  bool avx = __builtin_cpu_supports("avx");
  for (uint64_t page = 0; page < PAGES; page++) {
    state_t in, out;
    memset(&out, 0, sizeof out);
    for (size_t i = 0; i < sizeof in / 8; i++) {
      ((uint64_t *)&in)[i] = random_next(&seed);
    }
    in.general[RDI] = (uintptr_t)region->base + page * PAGE + 9;
    in.flags = (random_next(&seed) & (ARITHMETIC | (page % 4 == 3 ? DIRECTION : 0))) | 0x202;
    in.mxcsr = 0x1f80u | (uint32_t)(page % 4) << 13 | (uint32_t)(page % 2) << 15; /* rounding, flush to zero */
    touch_with(&in, &out, avx);
    EXPECT_EQ(out.general[RAX], (in.general[RAX] & ~0xffULL) | pattern(page * PAGE + 9));
    for (int reg = RCX; reg < 16; reg++) {
      EXPECT(reg == RSP || out.general[reg] == in.general[reg]);
    }
    EXPECT_EQ(out.flags & (ARITHMETIC | DIRECTION | 0x100), in.flags & (ARITHMETIC | DIRECTION | 0x100));
    EXPECT_EQ(out.mxcsr, in.mxcsr);
    for (int i = 0; i < 16; i++) {
      EXPECT(memcmp(out.vector[i], in.vector[i], avx ? 32 : 16) == 0);
    }
  }
  EXPECT_EQ(counter(&region->counters.faults), PAGES);
  EXPECT(close_region(region));
}

/* --- all that XSAVE knows: x87 with its control word and tags, MXCSR, AVX, AVX-512 with its masks -------------------------------------- */

#define X87_SSE_AVX 0x7u
#define AVX512 0xe0u /* opmask, the upper halves of zmm0 … 15, zmm16 … 31 */
#define XSAVE_MAX 16384

void touch_with_xstate(const void *in, void *out, const uint8_t *addr, uint32_t components);

__asm__(
    ".text\n"
    "touch_with_xstate:\n"
    "  sub $8, %rsp\n"
    "  stmxcsr (%rsp)\n"
    "  mov %rdx, %r8\n"
    "  mov %ecx, %eax\n"
    "  xor %edx, %edx\n"
    "  xrstor64 (%rdi)\n"
    "  movb (%r8), %r9b\n" /* the fault */
    "  xsave64 (%rsi)\n"
    "  fninit\n"
    "  ldmxcsr (%rsp)\n"
    "  add $8, %rsp\n"
    "  cmp $7, %eax\n"
    "  jb 1f\n"
    "  vzeroupper\n"
    "1:\n"
    "  ret\n");

static void cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4]) {
  __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub));
}

/* Those of the components wanted that the processor has and the kernel keeps; 0: no XSAVE. */
static uint32_t components_here(void) {
  uint32_t words[4], low, high;
  cpuid(1, 0, words);
  if (!(words[2] >> 27 & 1)) { /* OSXSAVE */
    return 0;
  }
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low & (X87_SSE_AVX | AVX512);
}

static void fill_random(uint8_t *area, uint32_t components, uint64_t *seed) {
  uint32_t words[4];
  for (size_t i = 0; i < 128 + 256; i++) {
    area[32 + i] = (uint8_t)random_next(seed); /* st0 … st7, xmm0 … xmm15 */
  }
  for (unsigned component = 2; component < 8; component++) {
    if (components >> component & 1) {
      cpuid(0xd, component, words);
      for (size_t i = 0; i < words[0]; i++) {
        area[words[1] + i] = (uint8_t)random_next(seed);
      }
    }
  }
  uint16_t control = 0x7f | (uint16_t)((random_next(seed) & 3) << 8) | (uint16_t)((random_next(seed) & 3) << 10); /* precision, rounding */
  uint16_t status = (uint16_t)((random_next(seed) & 7) << 11);                                                   /* the top of its stack */
  uint32_t mxcsr = 0x1f80u | (uint32_t)(random_next(seed) & 3) << 13 | (uint32_t)(random_next(seed) & 1) << 15 | (uint32_t)(random_next(seed) & 1) << 6;
  memcpy(area, &control, 2);
  memcpy(area + 2, &status, 2);
  area[4] = (uint8_t)random_next(seed); /* which registers are in use */
  memcpy(area + 24, &mxcsr, 4);
  uint64_t there = components;
  memcpy(area + 512, &there, 8);
}

static void xstate_survives(pf_backend_t backend) {
  static _Alignas(64) uint8_t in[XSAVE_MAX], out[XSAVE_MAX];
  enum { PAGES = 64 };
  uint32_t components = components_here(), words[4];
  if (components == 0) {
    return;
  }
  pf_region_t *region = open_region(backend, file_source(PAGES * PAGE), PAGES * PAGE, OPTIONS());
  uint64_t seed = 77;
  for (uint64_t page = 0; page < PAGES; page++) {
    memset(in, 0, sizeof in);
    memset(out, 0, sizeof out);
    fill_random(in, components, &seed);
    touch_with_xstate(in, out, region->base + page * PAGE + 9, components);
    EXPECT(memcmp(in, out, 5) == 0);            /* control, status and tags of x87 */
    EXPECT(memcmp(in + 24, out + 24, 4) == 0);  /* MXCSR */
    for (int i = 0; i < 8 && (components & 1); i++) {
      EXPECT(!(in[4] >> ((i + (in[3] >> 3)) & 7) & 1) || memcmp(in + 32 + 16 * i, out + 32 + 16 * i, 10) == 0);
    }
    EXPECT(memcmp(in + 160, out + 160, 256) == 0);
    for (unsigned component = 2; component < 8; component++) {
      if (components >> component & 1) {
        cpuid(0xd, component, words);
        EXPECT(memcmp(in + words[1], out + words[1], words[0]) == 0);
      }
    }
  }
  EXPECT_EQ(counter(&region->counters.faults), PAGES);
  EXPECT(close_region(region));
}

#endif

int main(void) {
  test_each("errno survives a fault, also one that fails", errno_survives);
#if defined(__x86_64__)
  test_each("general registers, flags, vectors and rounding modes survive a fault", everything_survives);
  test_each("x87, its control word, MXCSR and AVX-512 survive a fault", xstate_survives);
#endif
  return summary();
}
