/* sanitizers: address,thread,none */
/* Tests of step.c: every kind of load runs twice at the same address with the same registers, once on a page of zeroes
 * and once on a page that may not be read, redirected. All registers, flags, vectors and written memory must be equal.
 *
 * Prints a line for each failure and `N passed, N failed`. */
#include "step.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

static int passed, failed;

static void check(bool ok, const char *sentence, const char *detail) {
  if (ok) {
    passed++;
    return;
  }
  failed++;
  printf("failed: %s%s%s\n", sentence, detail ? ": " : "", detail ? detail : "");
}

static int summary(void) {
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

#if !defined(__x86_64__)

int main(void) {
  pf_step_t step = {0};
  ucontext_t uc;
  static char zeroes[PF_STEP_ZEROES_MIN];
  memset(&uc, 0, sizeof uc);
  check(pf_step_redirect(&step, &uc, 4096, zeroes, sizeof zeroes) == -ENOTSUP, "without a trap flag a load is refused", NULL);
  check(!pf_step_finish(&step, &uc), "without a trap flag no trap ends a redirect", NULL);
  check(!pf_step_cancel(&step, &uc), "without a trap flag there is nothing to cancel", NULL);
  return summary();
}

#else

#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>

#define PAGE 4096u
#define TF 0x100u
#define DF 0x400u
#define ARITHMETIC 0x8d5u /* CF, PF, AF, ZF, SF, OF */

/* --- memory: good, bad, good, bad, good --- */

#define ARENA_PAGES 5
#define LOW_ARENA 0x20000000u
#define ZEROES 0x3b7a5000u

static uint8_t *arena;     /* wherever the kernel puts it */
static uint8_t *low_arena; /* at LOW_ARENA, for absolute addresses */
static uint8_t near_arena[ARENA_PAGES * PAGE] __attribute__((aligned(4096), used)); /* within reach of RIP */
static const uint8_t *zeroes; /* far from the others, so that a shifted register differs in all its parts */
static uint8_t dest[256] __attribute__((aligned(64)));
static uint8_t other[256] __attribute__((aligned(64)));

static void must(bool ok, const char *what) {
  if (ok) {
    return;
  }
  perror(what);
  exit(2);
}

static void set_bad(uint8_t *pages, int protection) {
  must(mprotect(pages + PAGE, PAGE, protection) == 0, "mprotect");
  must(mprotect(pages + 3 * PAGE, PAGE, protection) == 0, "mprotect");
}

/* --- handlers --- */

static _Thread_local pf_step_t step;
static _Thread_local struct {
  unsigned faults, redirected, refused, ended, foreign;
  bool foreign_behind; /* a trap that ended no redirect came directly behind the instruction's jump */
  bool touched;      /* a refusal changed the context */
  uint64_t last_rip; /* where the last redirect ended */
  uint64_t skip_to;  /* where to go on after a refusal */
  uint8_t *served;   /* a page that is made writable when it faults, as another segment's would be */
  unsigned served_times;
} seen;
extern const char run_back[] __attribute__((visibility("hidden")));

static void on_fault(int sig, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  gregset_t before;
  uint64_t blocked_before, blocked_after;
  memcpy(&before, &uc->uc_mcontext.gregs, sizeof before);
  memcpy(&blocked_before, &uc->uc_sigmask, sizeof blocked_before);
  pf_step_t step_before = step;
  if (seen.served != NULL && (uintptr_t)info->si_addr - (uintptr_t)seen.served < PAGE) {
    seen.served_times++;
    must(mprotect(seen.served, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
    return;
  }
  seen.faults++;
  if (info->si_code == SEGV_ACCERR &&
      pf_step_redirect(&step, uc, (uintptr_t)info->si_addr, zeroes, PF_STEP_ZEROES_MIN) == 0) {
    seen.redirected++;
    return;
  }
  seen.refused++;
  memcpy(&blocked_after, &uc->uc_sigmask, sizeof blocked_after);
  if (memcmp(&before, &uc->uc_mcontext.gregs, sizeof before) != 0 || blocked_before != blocked_after ||
      memcmp(&step_before, &step, sizeof step) != 0) {
    seen.touched = true;
  }
  if (seen.skip_to == 0) {
    signal(sig, SIG_DFL); /* the instruction faults again and the program ends */
    return;
  }
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)seen.skip_to;
}

static void on_trap(int sig, siginfo_t *info, void *context) {
  (void)sig;
  ucontext_t *uc = context;
  if (info->si_code > 0 && pf_step_finish(&step, uc)) {
    seen.ended++;
    seen.last_rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    return;
  }
  seen.foreign++;
  if (uc->uc_mcontext.gregs[REG_RIP] != (greg_t)(uintptr_t)run_back) {
    return;
  }
  seen.foreign_behind = true;
  uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TF;
}

static void install(int sig, void (*handler)(int, siginfo_t *, void *), int flags) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigfillset(&action.sa_mask);
  sigdelset(&action.sa_mask, SIGSEGV);
  must(sigaction(sig, &action, NULL) == 0, "sigaction");
}

/* --- running one instruction with all registers chosen and all registers kept --- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, NONE = -1 };

typedef struct {
  uint64_t gpr[16];
  uint64_t flags;
  uint64_t top; /* the word at rsp afterwards */
  uint64_t unused[6];
  uint8_t vectors[4096] __attribute__((aligned(64))); /* as xsave lays them out */
} cpu_t;
_Static_assert(offsetof(cpu_t, vectors) == 192, "the assembly below has these offsets");

static cpu_t *run_cpu __attribute__((used));
static uint64_t run_stack __attribute__((used));
static uint64_t run_rdi __attribute__((used));
static uint64_t run_code __attribute__((used));
static uint64_t run_components __attribute__((used));
static size_t vectors_len;

void run(cpu_t *cpu);
__asm__(
  ".text\n"
  ".globl run\n"
  "run:\n"
  "  pushq %rbx\n pushq %rbp\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
  "  movq %rdi, run_cpu(%rip)\n"
  "  movq %rsp, run_stack(%rip)\n"
  "  movl run_components(%rip), %eax\n"
  "  xorl %edx, %edx\n"
  "  xrstor64 192(%rdi)\n"
  "  pushq 128(%rdi)\n"
  "  popfq\n"
  "  movq (%rdi), %rax\n movq 8(%rdi), %rcx\n movq 16(%rdi), %rdx\n movq 24(%rdi), %rbx\n"
  "  movq 40(%rdi), %rbp\n movq 48(%rdi), %rsi\n"
  "  movq 64(%rdi), %r8\n movq 72(%rdi), %r9\n movq 80(%rdi), %r10\n movq 88(%rdi), %r11\n"
  "  movq 96(%rdi), %r12\n movq 104(%rdi), %r13\n movq 112(%rdi), %r14\n movq 120(%rdi), %r15\n"
  "  movq 56(%rdi), %rdi\n"
  "  jmp *run_code(%rip)\n"
  "run_back:\n"
  "  movq %rdi, run_rdi(%rip)\n"
  "  movq run_cpu(%rip), %rdi\n"
  "  movq %rax, (%rdi)\n movq %rcx, 8(%rdi)\n movq %rdx, 16(%rdi)\n movq %rbx, 24(%rdi)\n"
  "  movq %rsp, 32(%rdi)\n movq %rbp, 40(%rdi)\n movq %rsi, 48(%rdi)\n"
  "  movq %r8, 64(%rdi)\n movq %r9, 72(%rdi)\n movq %r10, 80(%rdi)\n movq %r11, 88(%rdi)\n"
  "  movq %r12, 96(%rdi)\n movq %r13, 104(%rdi)\n movq %r14, 112(%rdi)\n movq %r15, 120(%rdi)\n"
  "  movq (%rsp), %rax\n"
  "  movq %rax, 136(%rdi)\n"
  "  movq run_stack(%rip), %rsp\n"
  "  pushfq\n"
  "  popq 128(%rdi)\n"
  "  cld\n"
  "  movq run_rdi(%rip), %rax\n"
  "  movq %rax, 56(%rdi)\n"
  "  movl run_components(%rip), %eax\n"
  "  xorl %edx, %edx\n"
  "  xsave64 192(%rdi)\n"
  "  fninit\n"
  "  popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbp\n popq %rbx\n"
  "  ret\n");

/* x87, SSE, AVX and the three parts of AVX-512, as far as this machine has them. */
static void measure_vectors(void) {
  unsigned a, b, c, d;
  must(__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE) != 0, "this test needs xsave");
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  run_components = a & 0xe7;
  vectors_len = 576;
  for (unsigned i = 2; i < 8; i++) {
    if ((run_components >> i & 1) == 0) {
      continue;
    }
    __cpuid_count(0xd, i, a, b, c, d);
    if (a + b > vectors_len) {
      vectors_len = a + b;
    }
  }
  must(vectors_len <= sizeof ((cpu_t *)0)->vectors, "xsave area is larger than expected");
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t random_state;
static uint64_t random64(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return random_state ^ random_state >> 29;
}

static void fill(cpu_t *cpu, uint64_t seed, uint64_t flags) {
  memset(cpu, 0, sizeof *cpu);
  random_state = seed;
  for (int i = 0; i < 16; i++) {
    cpu->gpr[i] = random64();
  }
  cpu->flags = 0x202 | flags;
  for (size_t i = 0; i + 8 <= vectors_len; i += 8) {
    uint64_t value = random64();
    memcpy(cpu->vectors + i, &value, 8);
  }
  /* x87 and the control words have to be valid, the header of the area too. */
  memset(cpu->vectors, 0, 160);
  memcpy(cpu->vectors, &(uint16_t){0x27f}, 2);
  memcpy(cpu->vectors + 24, &(uint32_t){0x1f80}, 4);
  memset(cpu->vectors + 512, 0, 64);
  memcpy(cpu->vectors + 512, &run_components, 8);
}

/* --- the forms --- */

typedef enum { ANY_CPU, NEED_SSE3, NEED_SSSE3, NEED_SSE41, NEED_SSE42, NEED_POPCNT, NEED_MOVBE, NEED_AVX, NEED_AVX2,
               NEED_FMA, NEED_BMI, NEED_BMI2, NEED_ADX, NEED_AVX512 } need_t;

typedef struct {
  const char *sentence;
  const char *code, *end;
  need_t need;
  int base, index; /* index: 1 + the register, 0 none; base: NONE is possible */
  unsigned scale;
  int64_t disp;
  unsigned size;   /* bytes read; 0 is 8 */
  bool aligned;    /* must not straddle; offsets are multiples of 64 */
  bool refused;    /* what is expected */
  bool low, near;  /* which arena */
  bool fs;         /* the address counts from the beginning of fs */
  bool xlat;       /* al is added to the address */
  bool df;         /* string operations go down */
  bool rdi_dest, rdi_bad, rdi_other; /* where the second operand is */
  unsigned rcx;    /* rounds of rep, when not 0 */
  unsigned rounds; /* traps expected; 0 is 1 */
  bool preceded;   /* other instructions come before the one that is meant */
  bool sets_al;    /* al holds 0, which is what the page holds */
  bool push;
} form_t;

#define IDX(reg) .index = 1 + (reg)

#define LOADS(X) \
  X(mov8, "mov loads 8 bits", "movb (%rax), %cl", .base = RAX, .size = 1) \
  X(mov8h, "mov loads 8 bits into a high byte", "movb (%rbx), %ch", .base = RBX, .size = 1) \
  X(mov8rex, "mov loads 8 bits into sil", "movb (%rbx), %sil", .base = RBX, .size = 1) \
  X(mov8r, "mov loads 8 bits into r9b", "movb (%r8), %r9b", .base = R8, .size = 1) \
  X(mov16, "mov loads 16 bits", "movw (%rdx), %si", .base = RDX, .size = 2) \
  X(mov32, "mov loads 32 bits and clears the upper half", "movl (%rsi), %edi", .base = RSI, .size = 4) \
  X(mov64, "mov loads 64 bits", "movq (%rdi), %rbp", .base = RDI) \
  X(movr8, "r8 is a base", "movq (%r8), %rax", .base = R8) \
  X(movr12, "r12 is a base, which takes a sib byte", "movq (%r12), %rax", .base = R12) \
  X(movr13, "r13 is a base, which takes a displacement", "movq (%r13), %rax", .base = R13) \
  X(movrbp, "rbp is a base", "movl (%rbp), %r15d", .base = RBP, .size = 4) \
  X(movr15, "r15 is a base", "movl 0x10(%r15), %r14d", .base = R15, .disp = 0x10, .size = 4) \
  X(disp8, "a displacement of 8 bits is added", "movq 0x7f(%rcx), %rdx", .base = RCX, .disp = 0x7f) \
  X(disp8n, "a negative displacement of 8 bits is added", "movq -0x80(%rcx), %rdx", .base = RCX, .disp = -0x80) \
  X(disp32, "a displacement of 32 bits is added", "movq 0x12345678(%rcx), %rdx", .base = RCX, .disp = 0x12345678) \
  X(disp32n, "a negative displacement of 32 bits is added", "movq -0x7654321(%r11), %rdx", .base = R11, .disp = -0x7654321) \
  X(idx1, "an index is added", "movq (%rax,%rcx), %rdx", .base = RAX, IDX(RCX), .scale = 1) \
  X(idx2, "an index times 2 is added", "movzwl (%rax,%rcx,2), %edx", .base = RAX, IDX(RCX), .scale = 2, .size = 2) \
  X(idx4, "an index times 4 and a displacement are added", "movl 0x40(%r9,%r10,4), %edx", .base = R9, IDX(R10), .scale = 4, .disp = 0x40, .size = 4) \
  X(idx8, "an index times 8 and a long displacement are added", "movq -0x1000(%r12,%r13,8), %rdx", .base = R12, IDX(R13), .scale = 8, .disp = -0x1000) \
  X(idx13, "r13 with an index is a base", "movq (%r13,%r12), %rdx", .base = R13, IDX(R12), .scale = 1) \
  X(idxr4, "r12 is an index although rsp is none", "movq (%rax,%r12,4), %rdx", .base = RAX, IDX(R12), .scale = 4) \
  X(nobase1, "an index without a base is shifted", "movq 0x20000000(,%rcx,1), %rdx", .base = NONE, IDX(RCX), .scale = 1, .disp = LOW_ARENA, .low = true) \
  X(nobase8, "an index times 8 without a base is shifted", "movq 0x20000000(,%r14,8), %rdx", .base = NONE, IDX(R14), .scale = 8, .disp = LOW_ARENA, .low = true, .aligned = true) \
  X(low, "a base below 2 GiB is shifted", "movq (%rcx), %rdx", .base = RCX, .low = true) \
  X(movzb, "movzx extends a byte", "movzbl (%rbx), %eax", .base = RBX, .size = 1) \
  X(movzb64, "movzx extends a byte to 64 bits", "movzbq (%rbx), %r10", .base = RBX, .size = 1) \
  X(movzw, "movzx extends 16 bits", "movzwl (%rbx), %eax", .base = RBX, .size = 2) \
  X(movsb16, "movsx extends a byte to 16 bits", "movsbw (%rbx), %ax", .base = RBX, .size = 1) \
  X(movsb64, "movsx extends a byte to 64 bits", "movsbq (%rbx), %rax", .base = RBX, .size = 1) \
  X(movsw, "movsx extends 16 bits", "movswq (%rbx), %rax", .base = RBX, .size = 2) \
  X(movsxd, "movsxd extends 32 bits", "movslq (%rbx), %rax", .base = RBX, .size = 4) \
  X(own64, "64 bits are loaded into the register of their address", "movq (%rax), %rax", .base = RAX) \
  X(own32, "32 bits are loaded into the register of their address", "movl (%rax), %eax", .base = RAX, .size = 4) \
  X(own16, "16 bits are loaded into the register of their address", "movw (%rax), %ax", .base = RAX, .size = 2) \
  X(own8, "8 bits are loaded into the register of their address", "movb (%rax), %al", .base = RAX, .size = 1) \
  X(own8h, "a high byte is loaded into the register of its address", "movb (%rdx), %dh", .base = RDX, .size = 1) \
  X(own8r, "8 bits are loaded into r13, which is their address", "movb (%r13), %r13b", .base = R13, .size = 1) \
  X(ownzx, "movzx extends into the register of its address", "movzbl (%rsi), %esi", .base = RSI, .size = 1) \
  X(ownzx16, "movzx extends to 16 bits in the register of its address", "movzbw (%rsi), %si", .base = RSI, .size = 1) \
  X(ownsx, "movsxd extends into the register of its address", "movslq (%r9), %r9", .base = R9, .size = 4) \
  X(ownidx, "the index is overwritten by the load", "movq (%rax,%rcx,8), %rcx", .base = RAX, IDX(RCX), .scale = 8) \
  X(ownidxb, "an index without a base is overwritten by the load", "movq 0x20000000(,%rcx,1), %rcx", .base = NONE, IDX(RCX), .scale = 1, .disp = LOW_ARENA, .low = true) \
  X(owncmov, "cmov may load into the register of its address", "cmovcq (%rax), %rax", .base = RAX) \
  X(ownbsf, "bsf may leave the register of its address alone", "bsfq (%rax), %rax", .base = RAX) \
  X(ownand, "and with the register of the address", "andq (%rax), %rax", .base = RAX) \
  X(ownand16, "and with 16 bits of the register of the address", "andw (%rax), %ax", .base = RAX, .size = 2) \
  X(ownadd8, "add to the low byte of the address", "addb (%rax), %al", .base = RAX, .size = 1) \
  X(owntest, "test with the register of the address", "testq %rax, (%rax)", .base = RAX) \
  X(ownimul, "imul with the register of the address", "imulq (%rcx), %rcx", .base = RCX) \
  X(ownmul8, "mul of 8 bits through rax", "mulb (%rax)", .base = RAX, .size = 1) \
  X(ownmul16, "mul of 16 bits through rdx", "mulw (%rdx)", .base = RDX, .size = 2) \
  X(ownmul32, "mul of 32 bits through rax", "mull (%rax)", .base = RAX, .size = 4) \
  X(ownmul64, "mul of 64 bits through rdx", "mulq (%rdx)", .base = RDX) \
  X(otheradd, "add to the base is redirected by the index", "addq (%rax,%rcx), %rax", .base = RAX, IDX(RCX), .scale = 1) \
  X(othercmp, "cmp with the base is redirected by the scaled index", "cmpq %rax, (%rax,%r9,4)", .base = RAX, IDX(R9), .scale = 4, .aligned = true) \
  X(othercmov, "cmov of 32 bits into the base is redirected by the index", "cmovcl (%rax,%rcx,8), %eax", .base = RAX, IDX(RCX), .scale = 8, .size = 4, .aligned = true) \
  X(ownimul16, "imul of 16 bits into the register of its address", "imulw $3, (%rax), %ax", .base = RAX, .size = 2) \
  X(add, "add from memory", "addq (%rbx), %rcx", .base = RBX) \
  X(add8, "add of bytes from memory", "addb (%rbx), %cl", .base = RBX, .size = 1) \
  X(or, "or from memory", "orl (%rbx), %ecx", .base = RBX, .size = 4) \
  X(adc, "adc from memory", "adcq (%rbx), %rcx", .base = RBX) \
  X(sbb, "sbb from memory", "sbbq (%rbx), %rcx", .base = RBX) \
  X(and, "and from memory", "andl (%rbx), %ecx", .base = RBX, .size = 4) \
  X(sub, "sub from memory", "subw (%rbx), %cx", .base = RBX, .size = 2) \
  X(xor, "xor from memory", "xorq (%rbx), %rcx", .base = RBX) \
  X(cmp, "cmp with memory", "cmpq (%rbx), %rcx", .base = RBX) \
  X(cmpm, "cmp of memory", "cmpb %cl, (%rbx)", .base = RBX, .size = 1) \
  X(cmpi8, "cmp with a byte constant", "cmpb $5, 3(%rbx)", .base = RBX, .disp = 3, .size = 1) \
  X(cmpi32, "cmp with a long constant", "cmpl $0x12345678, (%rbx)", .base = RBX, .size = 4) \
  X(cmpi8s, "cmp with a sign-extended constant", "cmpq $-1, (%rbx)", .base = RBX) \
  X(test, "test with memory", "testl %ecx, (%rbx)", .base = RBX, .size = 4) \
  X(testi, "test with a constant", "testb $0x80, (%rbx)", .base = RBX, .size = 1) \
  X(testi32, "test with a long constant", "testq $0x7fffffff, (%rbx)", .base = RBX) \
  X(imul1, "imul with one operand", "imulq (%rbx)", .base = RBX) \
  X(imul3, "imul with a constant", "imull $77, (%rbx), %ecx", .base = RBX, .size = 4) \
  X(imul3l, "imul with a long constant", "imulq $0x12345, (%rbx), %rcx", .base = RBX) \
  X(mul, "mul from memory", "mull (%rbx)", .base = RBX, .size = 4) \
  X(cmov, "cmov from memory", "cmovnel (%rbx), %ecx", .base = RBX, .size = 4) \
  X(bt, "bt with a constant", "btl $7, (%rbx)", .base = RBX, .size = 4) \
  X(bsr, "bsr from memory", "bsrq (%rbx), %rcx", .base = RBX) \
  X(push, "push from memory", "pushq (%rbx)", .base = RBX, .push = true) \
  X(xlat, "xlat reads at rbx plus al", "xlatb", .base = RBX, .xlat = true, .size = 1) \
  X(fs, "an address may count from fs", "movq %fs:(%rcx), %rdx", .base = RCX, .fs = true) \
  X(ds, "segment prefixes without meaning are skipped", "movq %cs:(%rcx), %rdx", .base = RCX) \
  X(rexlost, "a rex prefix before another prefix does not count", ".byte 0x41, 0x66, 0x8b, 0x08", .base = RAX, .size = 2) \
  X(prefixes, "prefixes may repeat", ".byte 0x66, 0x3e, 0x66, 0x48, 0x8b, 0x08", .base = RAX) \
  X(popcnt, "popcnt from memory", "popcntq (%rbx), %rcx", .base = RBX, .need = NEED_POPCNT) \
  X(movbe, "movbe loads", "movbeq (%rbx), %rcx", .base = RBX, .need = NEED_MOVBE) \
  X(movbe16, "movbe loads 16 bits into the register of its address", "movbew (%rbx), %bx", .base = RBX, .size = 2, .need = NEED_MOVBE) \
  X(crc8, "crc32 of a byte", "crc32b (%rbx), %ecx", .base = RBX, .size = 1, .need = NEED_SSE42) \
  X(crc64, "crc32 of 64 bits", "crc32q (%rbx), %rcx", .base = RBX, .need = NEED_SSE42) \
  X(tzcnt, "tzcnt into the register of its address", "tzcntq (%rbx), %rbx", .base = RBX, .need = NEED_BMI) \
  X(andn, "andn from memory", "andnq (%rbx), %rcx, %rdx", .base = RBX, .need = NEED_BMI) \
  X(blsi, "blsi from memory", "blsiq (%r11), %rdx", .base = R11, .need = NEED_BMI) \
  X(blsmsk, "blsmsk into the register of its address", "blsmskq (%r11), %r11", .base = R11, .need = NEED_BMI) \
  X(bextr, "bextr with the register of its address", "bextrq %rbx, (%rbx), %rcx", .base = RBX, .need = NEED_BMI) \
  X(shlx, "shlx from memory", "shlxq %rcx, (%rbx), %rdx", .base = RBX, .need = NEED_BMI2) \
  X(bzhi, "bzhi with the register of its address", "bzhiq %rbx, (%rbx), %rdx", .base = RBX, .need = NEED_BMI2) \
  X(mulx, "mulx from memory", "mulxq (%rbx), %rcx, %rsi", .base = RBX, .need = NEED_BMI2) \
  X(pdep, "pdep from memory", "pdepq (%rbx), %rcx, %rsi", .base = RBX, .need = NEED_BMI2) \
  X(rorx, "rorx from memory", "rorxq $13, (%r8,%r9,2), %rcx", .base = R8, IDX(R9), .scale = 2, .need = NEED_BMI2) \
  X(adcx, "adcx from memory", "adcxq (%rbx), %rcx", .base = RBX, .need = NEED_ADX) \
  X(adox, "adox from memory", "adoxq (%rbx), %rcx", .base = RBX, .need = NEED_ADX) \
  X(fld32, "fld of 32 bits", "flds (%rbx)", .base = RBX, .size = 4) \
  X(fld80, "fld of 80 bits", "fldt (%rbx)", .base = RBX, .size = 10) \
  X(fild, "fild of 64 bits", "fildll (%rbx)", .base = RBX) \
  X(movss, "movss loads and clears the rest", "movss (%rbx), %xmm3", .base = RBX, .size = 4) \
  X(movsd, "movsd loads and clears the rest", "movsd 8(%rbx,%rcx,8), %xmm9", .base = RBX, IDX(RCX), .scale = 8, .disp = 8) \
  X(movups, "movups loads", "movups (%rbx), %xmm0", .base = RBX, .size = 16) \
  X(movaps, "movaps loads, still aligned", "movaps (%rbx), %xmm0", .base = RBX, .size = 16, .aligned = true) \
  X(movdqu, "movdqu loads", "movdqu (%r10), %xmm15", .base = R10, .size = 16) \
  X(movdqa, "movdqa loads, still aligned", "movdqa (%r10), %xmm15", .base = R10, .size = 16, .aligned = true) \
  X(movlps, "movlps loads one half", "movlps (%rbx), %xmm2", .base = RBX) \
  X(movhpd, "movhpd loads one half", "movhpd (%rbx), %xmm2", .base = RBX) \
  X(movqx, "movq loads a vector's half", "movq (%rbx), %xmm2", .base = RBX) \
  X(movdx, "movd loads a vector's quarter", "movd (%rbx), %xmm2", .base = RBX, .size = 4) \
  X(addsd, "addsd from memory", "addsd (%rbx), %xmm2", .base = RBX) \
  X(ucomisd, "ucomisd sets flags", "ucomisd (%rbx), %xmm2", .base = RBX) \
  X(cvtsi, "cvtsi2sd from memory", "cvtsi2sdq (%rbx), %xmm2", .base = RBX) \
  X(cvttsd, "cvttsd2si into the register of its address", "cvttsd2si (%rbx), %rbx", .base = RBX) \
  X(pcmpeqb, "pcmpeqb from memory", "pcmpeqb (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pxor, "pxor from memory", "pxor (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pshufd, "pshufd with a constant", "pshufd $0x1b, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pinsrw, "pinsrw from memory", "pinsrw $3, (%rdi), %xmm1", .base = RDI, .size = 2) \
  X(shufps, "shufps from memory", "shufps $0x1b, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(lddqu, "lddqu loads", "lddqu (%rdi), %xmm1", .base = RDI, .size = 16, .need = NEED_SSE3) \
  X(movddup, "movddup loads", "movddup (%rdi), %xmm1", .base = RDI, .need = NEED_SSE3) \
  X(pshufb, "pshufb from memory", "pshufb (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSSE3) \
  X(palignr, "palignr from memory", "palignr $5, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSSE3) \
  X(pmovzx, "pmovzxbw from memory", "pmovzxbw (%rdi), %xmm1", .base = RDI, .need = NEED_SSE41) \
  X(ptest, "ptest sets flags", "ptest (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSE41) \
  X(pinsrq, "pinsrq from memory", "pinsrq $1, (%rdi), %xmm1", .base = RDI, .need = NEED_SSE41) \
  X(pcmpistri, "pcmpistri into the register of its address", "pcmpistri $0x0c, (%rcx), %xmm1", .base = RCX, .size = 16, .need = NEED_SSE42) \
  X(pcmpestri, "pcmpestri takes its lengths from rax and rdx", "pcmpestri $0x0c, (%rbx), %xmm1", .base = RBX, .size = 16, .need = NEED_SSE42) \
  X(vmovdqu, "vmovdqu loads a ymm register", "vmovdqu (%rbx), %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vmovdqu3, "a vex prefix of three bytes extends base and index", "vmovdqu 0x20(%r8,%r9,4), %ymm12", .base = R8, IDX(R9), .scale = 4, .disp = 0x20, .size = 32, .need = NEED_AVX) \
  X(vmovaps, "vmovaps loads, still aligned", "vmovaps (%rbx), %ymm7", .base = RBX, .size = 32, .aligned = true, .need = NEED_AVX) \
  X(vaddpd, "vaddpd from memory", "vaddpd (%rbx), %ymm6, %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vmovq, "vmovq loads", "vmovq (%rbx), %xmm7", .base = RBX, .need = NEED_AVX) \
  X(vptest, "vptest sets flags", "vptest (%rbx), %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vbroadss, "vbroadcastss loads", "vbroadcastss (%rbx), %ymm7", .base = RBX, .size = 4, .need = NEED_AVX) \
  X(vpbroadb, "vpbroadcastb loads", "vpbroadcastb (%rbx), %ymm7", .base = RBX, .size = 1, .need = NEED_AVX2) \
  X(vpcmpeqb, "vpcmpeqb from memory", "vpcmpeqb (%rdi), %ymm1, %ymm2", .base = RDI, .size = 32, .need = NEED_AVX2) \
  X(vinsert, "vinserti128 from memory", "vinserti128 $1, (%rdi), %ymm1, %ymm2", .base = RDI, .size = 16, .need = NEED_AVX2) \
  X(vperm, "vpermq from memory", "vpermq $0x1b, (%rdi), %ymm2", .base = RDI, .size = 32, .need = NEED_AVX2) \
  X(vfmadd, "vfmadd231sd from memory", "vfmadd231sd (%rdi), %xmm1, %xmm2", .base = RDI, .need = NEED_FMA) \
  X(zmov, "vmovdqu64 loads a zmm register", "vmovdqu64 (%rbx), %zmm17", .base = RBX, .size = 64, .need = NEED_AVX512) \
  X(zdisp64, "an evex displacement counts in 64 bytes", "vmovdqu64 0x1000(%r12), %zmm3", .base = R12, .disp = 0x1000, .size = 64, .need = NEED_AVX512) \
  X(zdisp32, "an evex displacement counts in 32 bytes", "vmovdqu32 -0x1000(%rbx), %ymm30", .base = RBX, .disp = -0x1000, .size = 32, .need = NEED_AVX512) \
  X(zdisp8, "an evex displacement of a scalar counts in 8 bytes", "vaddsd 0x3f8(%rbx), %xmm20, %xmm21", .base = RBX, .disp = 0x3f8, .need = NEED_AVX512) \
  X(zbcst, "an evex broadcast reads one element", "vpaddd 0x1fc(%rbx){1to16}, %zmm4, %zmm5", .base = RBX, .disp = 0x1fc, .size = 4, .need = NEED_AVX512) \
  X(zlong, "an evex displacement may be long", "vmovdqu8 0x12345(%r9,%r10,8), %xmm5", .base = R9, IDX(R10), .scale = 8, .disp = 0x12345, .size = 16, .need = NEED_AVX512) \
  X(zcmp, "vpcmpeqb sets a mask", "vpcmpeqb (%rdi), %ymm17, %k3", .base = RDI, .size = 32, .need = NEED_AVX512) \
  X(zmin, "vpminub from memory", "vpminub 0x20(%rdi), %ymm17, %ymm18", .base = RDI, .disp = 0x20, .size = 32, .need = NEED_AVX512) \
  X(ztern, "vpternlogd from memory", "vpternlogd $0x96, (%rdi), %ymm17, %ymm18", .base = RDI, .size = 32, .need = NEED_AVX512) \
  X(zshift, "vpsrld by a constant from memory", "vpsrld $3, (%rdi), %zmm18", .base = RDI, .size = 64, .need = NEED_AVX512) \
  X(kmov, "kmov loads a mask", "kmovq (%rdi), %k2", .base = RDI, .need = NEED_AVX512) \
  X(lodsb, "lodsb moves rsi on", "lodsb", .base = RSI, .size = 1) \
  X(lodsq, "lodsq moves rsi on", "lodsq", .base = RSI) \
  X(lodswd, "lodsw moves rsi down", "lodsw", .base = RSI, .size = 2, .df = true) \
  X(replods, "rep lodsb traps in each round", "rep lodsb", .base = RSI, .size = 1, .rcx = 7, .rounds = 7, .aligned = true) \
  X(movsb, "movsb copies from the page", "movsb", .base = RSI, .size = 1, .rdi_dest = true) \
  X(movsl, "movsl copies from the page", "movsl", .base = RSI, .size = 4, .rdi_dest = true) \
  X(movsq, "movsq copies from the page", "movsq", .base = RSI, .rdi_dest = true) \
  X(repmovsb, "rep movsb copies at once", "rep movsb", .base = RSI, .rdi_dest = true, .rcx = 37, .aligned = true) \
  X(repmovsw, "rep movsw copies at once", "rep movsw", .base = RSI, .rdi_dest = true, .rcx = 19, .aligned = true) \
  X(repmovsl, "rep movsl copies at once", "rep movsl", .base = RSI, .rdi_dest = true, .rcx = 21, .aligned = true) \
  X(repmovsq, "rep movsq copies at once", "rep movsq", .base = RSI, .rdi_dest = true, .rcx = 9, .aligned = true) \
  X(repmovsc, "rep movsb with more prefixes copies at once", ".byte 0x2e, 0xf2, 0x40, 0xa4", .base = RSI, .rdi_dest = true, .rcx = 5, .aligned = true) \
  X(repmovsf, "rep movsb with fs traps in each round", "rep movsb %fs:(%rsi), (%rdi)", .base = RSI, .fs = true, .rdi_dest = true, .rcx = 11, .rounds = 11, .aligned = true) \
  X(repmovsd, "rep movsb copies downwards", "rep movsb", .base = RSI, .rdi_dest = true, .rcx = 11, .rounds = 11, .df = true, .aligned = true) \
  X(scasb, "scasb compares with the page", "scasb", .base = RDI, .size = 1) \
  X(scasq, "scasq compares with the page", "scasq", .base = RDI) \
  X(repnescas, "repne scasb searches through the page", "repne scasb", .base = RDI, .rcx = 40, .rounds = 40, .aligned = true) \
  X(repnescasf, "repne scasb finds a zero at once", "repne scasb", .base = RDI, .rcx = 40, .sets_al = true, .aligned = true) \
  X(repescasq, "repe scasb goes on while it reads zeroes", "repe scasb", .base = RDI, .rcx = 12, .rounds = 12, .sets_al = true, .aligned = true) \
  X(cmpsb1, "cmpsb with the first operand on the page", "cmpsb", .base = RSI, .size = 1, .rdi_other = true) \
  X(cmpsb2, "cmpsb with both operands on bad pages", "cmpsb", .base = RSI, .size = 1, .rdi_bad = true) \
  X(cmpsq2, "cmpsq with both operands on bad pages", "cmpsq", .base = RSI, .rdi_bad = true) \
  X(repecmps, "repe cmpsb goes on over two bad pages", "repe cmpsb", .base = RSI, .rcx = 20, .rounds = 20, .rdi_bad = true, .aligned = true)

#define REFUSALS(X) \
  X(call, "call through the page is refused", "call *(%rax)", .base = RAX) \
  X(jmp, "jmp through the page is refused", "jmp *(%rax)", .base = RAX) \
  X(div, "div is refused", "divl (%rbx)", .base = RBX) \
  X(idiv, "idiv is refused", "idivq (%rbx)", .base = RBX) \
  X(store, "a store is refused", "movq %rax, (%rbx)", .base = RBX) \
  X(inc, "inc is refused", "incl (%rbx)", .base = RBX) \
  X(addm, "add to memory is refused", "addl %eax, (%rbx)", .base = RBX) \
  X(ori, "or of a constant to memory is refused", "orl $1, (%rbx)", .base = RBX) \
  X(lock, "a locked instruction is refused", "lock xaddl %eax, (%rbx)", .base = RBX) \
  X(xchg, "xchg is refused", "xchgl %eax, (%rbx)", .base = RBX) \
  X(bts, "bts is refused", "btsl $1, (%rbx)", .base = RBX) \
  X(btreg, "bt with a register is refused", "xorl %ecx, %ecx\n btl %ecx, (%rbx)", .preceded = true, .base = RBX) \
  X(stos, "stosb is refused", "stosb", .base = RDI) \
  X(movsto, "movsb to the page is refused", "leaq other(%rip), %rsi\n movsb", .preceded = true, .base = RDI) \
  X(popm, "pop to memory is refused", "pushq %rax\n popq (%rbx)", .preceded = true, .base = RBX, .push = true) \
  X(movaps_store, "movaps to memory is refused", "movaps %xmm1, (%rbx)", .base = RBX, .aligned = true) \
  X(rip, "an address relative to RIP is refused", "movq near_arena+0x1080(%rip), %rcx", .base = NONE, .near = true) \
  X(absolute, "an absolute address is refused", "movq 0x20001080, %rcx", .base = NONE, .low = true) \
  X(moffs, "an absolute address in the opcode is refused", "movabsl 0x20001080, %eax", .base = NONE, .low = true) \
  X(addr32, "an address of 32 bits is refused", "movl (%ecx), %eax", .base = RCX, .low = true) \
  X(rsp, "rsp as a base is refused", "movq (%rsp,%rcx), %rax", .base = RSP, IDX(RCX), .scale = 1) \
  X(same, "a register that is base and index is refused", "xorl %eax, %eax\n movq 0x20001080(%rax,%rax), %rcx", .preceded = true, .base = NONE, .low = true) \
  X(torsp, "a load of rsp is refused", "movq (%rax), %rsp", .base = RAX) \
  X(tospl, "a load of spl is refused", "movb (%rax), %spl", .base = RAX) \
  X(addown, "add to the register of the address is refused", "addq (%rax), %rax", .base = RAX) \
  X(cmpown, "cmp with the register of the address is refused", "cmpq %rax, (%rax)", .base = RAX) \
  X(subown, "sub from half the register of the address is refused", "subl (%rax), %eax", .base = RAX) \
  X(addhigh, "add to a high byte of the address is refused", "addb (%rax), %ah", .base = RAX) \
  X(cmovown, "cmov of 32 bits into the register of the address is refused", "cmovcl (%rax), %eax", .base = RAX) \
  X(bsfown, "bsf of 32 bits into the register of the address is refused", "bsfl (%rax), %eax", .base = RAX) \
  X(crcown, "crc32 in the register of the address is refused", "crc32q (%rax), %rax", .base = RAX, .need = NEED_SSE42) \
  X(crc8own, "crc32 of a byte in the register of the address is refused", "crc32b (%rax), %eax", .base = RAX, .need = NEED_SSE42) \
  X(adcxown, "adcx in the register of the address is refused", "adcxq (%rax), %rax", .base = RAX, .need = NEED_ADX) \
  X(estrown, "pcmpestri with its length as the address is refused", "pcmpestri $0, (%rax), %xmm1", .base = RAX, .need = NEED_SSE42) \
  X(ldmxcsr, "a load of the vector control word is refused", "ldmxcsr (%rbx)", .base = RBX) \
  X(fldcw, "a load of the x87 control word is refused", "fldcw (%rbx)", .base = RBX) \
  X(fldenv, "a load of the x87 environment is refused", "fldenv (%rbx)", .base = RBX) \
  X(fxrstor, "a load of the whole vector state is refused", "fxrstor64 (%rbx)", .base = RBX, .aligned = true) \
  X(movseg, "a load of a segment register is refused", "movw (%rbx), %ds", .base = RBX) \
  X(lfs, "a load of a far pointer is refused", "lfsl (%rbx), %ecx", .base = RBX) \
  X(gather, "a gather is refused", "vpxor %xmm1, %xmm1, %xmm1\n vpcmpeqd %xmm2, %xmm2, %xmm2\n vgatherdps %xmm2, (%rbx,%xmm1), %xmm3", .preceded = true, .base = RBX, .need = NEED_AVX2)

#define CODE(id, text, ...) \
  extern const char code_##id[] __attribute__((visibility("hidden"))); \
  extern const char end_##id[] __attribute__((visibility("hidden"))); \
  __asm__(".text\ncode_" #id ": " text "\nend_" #id ": jmp run_back\n");
#define CODE_ROW(id, sentence, ...) CODE(id, __VA_ARGS__)
#define LOAD_ROW(id, name, text, ...) {.sentence = name, .code = code_##id, .end = end_##id, __VA_ARGS__},
#define REFUSAL_ROW(id, name, text, ...) {.sentence = name, .code = code_##id, .end = end_##id, .refused = true, __VA_ARGS__},

LOADS(CODE_ROW)
REFUSALS(CODE_ROW)
static const form_t forms[] = {LOADS(LOAD_ROW) REFUSALS(REFUSAL_ROW)};

static bool have(need_t need) {
  unsigned a, b, c, d;
  switch (need) {
    case ANY_CPU: return true;
    case NEED_SSE3: return __builtin_cpu_supports("sse3");
    case NEED_SSSE3: return __builtin_cpu_supports("ssse3");
    case NEED_SSE41: return __builtin_cpu_supports("sse4.1");
    case NEED_SSE42: return __builtin_cpu_supports("sse4.2");
    case NEED_POPCNT: return __builtin_cpu_supports("popcnt");
    case NEED_MOVBE: return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_MOVBE) != 0;
    case NEED_AVX: return __builtin_cpu_supports("avx");
    case NEED_AVX2: return __builtin_cpu_supports("avx2");
    case NEED_FMA: return __builtin_cpu_supports("fma");
    case NEED_BMI: return __builtin_cpu_supports("bmi");
    case NEED_BMI2: return __builtin_cpu_supports("bmi2");
    case NEED_ADX: return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_ADX) != 0;
    case NEED_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  return false;
}

static uint8_t *arena_of(const form_t *form) {
  return form->low ? low_arena : form->near ? near_arena : arena;
}

/* Chooses the registers so that the form reads at `target`. */
static void aim(const form_t *form, cpu_t *cpu, uint64_t target) {
  uint64_t rest = target - (uint64_t)form->disp;
  if (form->fs) {
    uint64_t fs;
    must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0, "arch_prctl");
    rest -= fs;
  }
  if (form->sets_al) {
    cpu->gpr[RAX] &= ~0xffull;
  }
  if (form->xlat) {
    rest -= cpu->gpr[RAX] & 0xff;
  }
  if (form->index != 0) {
    int index = form->index - 1;
    if (form->base == RSP) {
      cpu->gpr[index] = rest - run_stack;
    } else if (form->base == NONE) {
      cpu->gpr[index] = rest / form->scale;
    } else {
      cpu->gpr[index] = (cpu->gpr[index] & 0xffff) + 1;
    }
    rest -= cpu->gpr[index] * form->scale;
  }
  if (form->base != NONE && form->base != RSP) {
    cpu->gpr[form->base] = rest;
  }
  if (form->rcx != 0) {
    cpu->gpr[RCX] = form->rcx;
  }
  if (form->rdi_dest) {
    cpu->gpr[RDI] = (uintptr_t)(dest + 128);
  }
  if (form->rdi_other) {
    cpu->gpr[RDI] = (uintptr_t)(other + 128);
  }
  if (form->rdi_bad) {
    cpu->gpr[RDI] = target + 2 * PAGE;
  }
  if (form->df) {
    cpu->flags |= DF;
  }
}

static void run_form(const form_t *form, cpu_t *cpu) {
  memset(&seen, 0, sizeof seen);
  seen.skip_to = (uintptr_t)form->end;
  run_code = (uintptr_t)form->code;
  run(cpu);
  /* What may differ: the x87's memory of its last instruction and operand, and the header of the area. */
  memset(cpu->vectors + 6, 0, 18);
  memset(cpu->vectors + 416, 0, 160);
  if (!form->push) {
    cpu->top = cpu->gpr[RSP] = 0;
  }
}

static const char *difference(const cpu_t *a, const cpu_t *b) {
  static char text[100];
  for (int i = 0; i < 16; i++) {
    if (a->gpr[i] == b->gpr[i]) {
      continue;
    }
    snprintf(text, sizeof text, "register %d is %llx, not %llx", i, (unsigned long long)b->gpr[i], (unsigned long long)a->gpr[i]);
    return text;
  }
  uint64_t mask = ARITHMETIC | DF | TF;
  if ((a->flags & mask) != (b->flags & mask)) {
    snprintf(text, sizeof text, "the flags are %llx, not %llx", (unsigned long long)b->flags, (unsigned long long)a->flags);
    return text;
  }
  if (a->top != b->top) {
    return "another value was pushed";
  }
  if (memcmp(a->vectors, b->vectors, vectors_len) != 0) {
    return "vector registers differ";
  }
  return NULL;
}

static void check_redirected(const form_t *form, uint64_t target, uint64_t flags) {
  static cpu_t start, expected, actual;
  uint8_t expected_dest[sizeof dest];
  uint8_t *pages = arena_of(form);
  fill(&start, target ^ flags, flags);
  aim(form, &start, target);

  memset(dest, 0xaa, sizeof dest);
  set_bad(pages, PROT_READ);
  expected = start;
  run_form(form, &expected);
  bool quiet = seen.faults == 0 && seen.ended == 0 && seen.foreign == 0;
  memcpy(expected_dest, dest, sizeof dest);

  memset(dest, 0xaa, sizeof dest);
  set_bad(pages, PROT_NONE);
  actual = start;
  run_form(form, &actual);
  unsigned rounds = form->rounds != 0 ? form->rounds : 1;
  unsigned operands = form->rdi_bad ? 2 : 1;

  char detail[200];
  const char *what = !quiet ? "the page of zeroes faulted" : difference(&expected, &actual);
  if (what == NULL && memcmp(expected_dest, dest, sizeof dest) != 0) {
    what = "something else was copied";
  }
  if (what == NULL && seen.refused != 0) {
    what = "it was refused";
  }
  if (what == NULL && seen.foreign != 0) {
    what = "a trap came that ended no redirect";
  }
  /* A hypervisor that is entered in the middle of a repeated instruction may run several rounds before the next trap (seen once in thousands of
   * runs, with the right result), so there may be fewer; each trap still ends one redirect. */
  bool counted = rounds == 1 ? seen.ended == 1 : seen.ended >= 1 && seen.ended <= rounds;
  if (what == NULL && (!counted || seen.redirected != seen.ended * operands)) {
    what = "the numbers of redirects and traps are wrong";
  }
  if (what == NULL && seen.last_rip != (uintptr_t)form->end) {
    what = "it did not end directly behind the instruction";
  }
  if (what == NULL && step.count != 0) {
    what = "the redirect is still open";
  }
  snprintf(detail, sizeof detail, "%s (page offset %llx, flags %llx, %u redirected, %u ended)", what ? what : "",
           (unsigned long long)(target & (PAGE - 1)), (unsigned long long)flags, seen.redirected, seen.ended);
  check(what == NULL, form->sentence, detail);
}

static void check_refused(const form_t *form) {
  static cpu_t cpu;
  uint8_t *pages = arena_of(form);
  set_bad(pages, PROT_NONE);
  fill(&cpu, 1, 0);
  aim(form, &cpu, (uintptr_t)pages + PAGE + 0x80);
  run_form(form, &cpu);
  check(seen.faults == 1 && seen.refused == 1, form->sentence, "it was not refused");
  check(!seen.touched, form->sentence, "the refusal changed the context");
  check(seen.ended == 0 && seen.foreign == 0, form->sentence, "a trap came");
}

static void test_forms(void) {
  unsigned skipped = 0;
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    const form_t *form = &forms[i];
    if (!have(form->need)) {
      skipped++;
      continue;
    }
    if (form->refused) {
      check_refused(form);
      continue;
    }
    uint64_t bad = (uintptr_t)arena_of(form) + PAGE;
    unsigned size = form->size != 0 ? form->size : 8;
    for (int with_flags = 0; with_flags < 2; with_flags++) {
      uint64_t flags = with_flags ? ARITHMETIC : 0;
      check_redirected(form, bad + 0x640, flags);
      check_redirected(form, bad + (form->df ? 64 : 0), flags);
      if (form->aligned) {
        continue;
      }
      check_redirected(form, bad + 0x7c3, flags);
      check_redirected(form, bad + PAGE - size, flags);
      if (size == 1 || form->rdi_bad) {
        continue;
      }
      check_redirected(form, bad + PAGE - 1, flags);    /* the first byte is on the bad page */
      check_redirected(form, bad - size + 1, flags);    /* the last one is */
    }
  }
  if (skipped != 0) {
    printf("%u kinds of loads skipped, which this processor does not have\n", skipped);
  }
}

/* --- what forms cannot show --- */

static bool all(const uint8_t *bytes, size_t len, uint8_t value) {
  for (size_t i = 0; i < len; i++) {
    if (bytes[i] != value) {
      return false;
    }
  }
  return true;
}

static const form_t *form_named(const char *code) {
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    if (forms[i].code == code) {
      return &forms[i];
    }
  }
  abort();
}

static void test_straddling_over_data(void) {
  cpu_t *cpu = aligned_alloc(64, sizeof *cpu);
  must(cpu != NULL, "aligned_alloc");
  const form_t *form = form_named(code_mov64);
  memset(arena, 0x11, PAGE);
  set_bad(arena, PROT_NONE);
  fill(cpu, 3, 0);
  aim(form, cpu, (uintptr_t)arena + PAGE - 4);
  run_form(form, cpu);
  memset(arena, 0, PAGE);
  check(cpu->gpr[RBP] == 0, "an operand across a good and a bad page reads as zeroes altogether", NULL);
  free(cpu);
}

/* Runs one rep movs from `from` to `to` and checks that it did what it says, with this many redirects. */
static void check_copy(const char *code, unsigned size, const uint8_t *from, uint8_t *to, uint64_t rounds, unsigned redirects,
                       const char *sentence) {
  static cpu_t start, cpu;
  const form_t *form = form_named(code);
  fill(&start, rounds, ARITHMETIC);
  start.gpr[RSI] = (uintptr_t)from;
  start.gpr[RDI] = (uintptr_t)to;
  start.gpr[RCX] = rounds;
  cpu = start;
  uint8_t *served = seen.served;
  memset(&seen, 0, sizeof seen);
  seen.served = served;
  run_code = (uintptr_t)form->code;
  run(&cpu);
  char detail[100];
  snprintf(detail, sizeof detail, "%u redirected, %u ended, %u refused", seen.redirected, seen.ended, seen.refused);
  check(seen.redirected == redirects && seen.ended == redirects && seen.refused == 0 && seen.foreign == 0 && step.count == 0, sentence, detail);
  bool moved = cpu.gpr[RSI] == start.gpr[RSI] + rounds * size && cpu.gpr[RDI] == start.gpr[RDI] + rounds * size && cpu.gpr[RCX] == 0;
  bool kept = cpu.gpr[RAX] == start.gpr[RAX] && ((cpu.flags ^ start.flags) & (ARITHMETIC | DF | TF)) == 0;
  check(moved && kept, sentence, "the registers are wrong");
}

static void test_copies(void) {
  uint8_t *into = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(into != MAP_FAILED, "mmap");
  set_bad(arena, PROT_NONE);
  memset(arena, 0x11, PAGE);
  memset(arena + 2 * PAGE, 0x22, PAGE);
  memset(into, 0xaa, 4 * PAGE);

  check_copy(code_repmovsb, 1, arena, into, 3 * PAGE, 1, "a copy across a bad page is redirected once");
  check(all(into, PAGE, 0x11) && all(into + PAGE, PAGE, 0) && all(into + 2 * PAGE, PAGE, 0x22) && into[3 * PAGE] == 0xaa,
        "a copy across a bad page reads the good ones", NULL);

  memset(into, 0xaa, 4 * PAGE);
  check_copy(code_repmovsq, 8, arena + 3, into, 3 * PAGE / 8 - 1, 2, "a copy of words that straddle is redirected for the page and the first word");
  check(all(into, PAGE - 11, 0x11) && all(into + PAGE - 3, PAGE, 0) && all(into + 2 * PAGE + 5, PAGE - 13, 0x22) && into[3 * PAGE] == 0xaa,
        "a copy of words that straddle loses no more than one word beside the bad page", NULL);

  memset(into, 0xaa, 4 * PAGE);
  must(mprotect(arena + 2 * PAGE, PAGE, PROT_NONE) == 0, "mprotect");
  check_copy(code_repmovsl, 4, arena + PAGE + 12, into, 3 * PAGE / 4 - 3, 3, "a copy of three bad pages is redirected three times");
  must(mprotect(arena + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
  check(all(into, 3 * PAGE - 12, 0) && into[3 * PAGE - 12] == 0xaa, "a copy of three bad pages is all zeroes", NULL);

  memset(into, 0xaa, 4 * PAGE);
  must(mprotect(into + PAGE, PAGE, PROT_NONE) == 0, "mprotect");
  seen.served = into + PAGE;
  check_copy(code_repmovsw, 2, arena + PAGE, into + PAGE - 100, PAGE / 2, 1, "a copy goes on when its destination had to be served");
  check(seen.served_times == 1, "the destination was served once", NULL);
  check(all(into + PAGE - 100, PAGE, 0) && into[2 * PAGE - 100] == 0xaa, "a copy to a served page is complete", NULL);
  memset(arena, 0, PAGE);
  memset(arena + 2 * PAGE, 0, PAGE);
  munmap(into, 4 * PAGE);
}

static void test_stepping_already(void) {
  cpu_t *cpu = aligned_alloc(64, sizeof *cpu);
  must(cpu != NULL, "aligned_alloc");
  const form_t *form = form_named(code_mov64);
  set_bad(arena, PROT_NONE);
  fill(cpu, 4, TF);
  aim(form, cpu, (uintptr_t)arena + PAGE + 0x40);
  uint64_t address = cpu->gpr[RDI];
  run_form(form, cpu);
  check(seen.ended == 1 && cpu->gpr[RBP] == 0 && cpu->gpr[RDI] == address, "a program that is stepped already can be redirected", NULL);
  check(seen.foreign_behind && (cpu->flags & TF) == 0, "and is stepped on afterwards", NULL);
  free(cpu);
}

/* Fills in a context as the kernel would for a read fault at an instruction. */
static void fake(ucontext_t *uc, const void *rip) {
  memset(uc, 0, sizeof *uc);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)rip;
  uc->uc_mcontext.gregs[REG_EFL] = 0x202;
  uc->uc_mcontext.gregs[REG_TRAPNO] = 14;
  uc->uc_mcontext.gregs[REG_ERR] = 4;
  sigaddset(&uc->uc_sigmask, SIGUSR1);
  sigaddset(&uc->uc_sigmask, SIGTRAP);
}

static bool refuses(pf_step_t *state, ucontext_t *uc, uintptr_t addr, const void *area, size_t len) {
  ucontext_t before = *uc;
  pf_step_t state_before = *state;
  return pf_step_redirect(state, uc, addr, area, len) == -ENOTSUP && memcmp(&before, uc, sizeof before) == 0 &&
         memcmp(&state_before, state, sizeof state_before) == 0;
}

/* The refusals again, as read faults, so that the bits that tell writes and fetches apart do not help. */
static void test_refusals_as_reads(void) {
  static cpu_t cpu;
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    const form_t *form = &forms[i];
    if (!form->refused || form->preceded) {
      continue;
    }
    uint64_t target = (uintptr_t)arena_of(form) + PAGE + 0x80;
    ucontext_t uc;
    pf_step_t state;
    memset(&state, 0, sizeof state);
    fill(&cpu, 1, 0);
    aim(form, &cpu, target);
    fake(&uc, form->code);
    for (int reg = 0; reg < 16; reg++) {
      uc.uc_mcontext.gregs[greg_of[reg]] = (greg_t)cpu.gpr[reg];
    }
    check(refuses(&state, &uc, target, zeroes, PF_STEP_ZEROES_MIN), form->sentence, "as a read fault it was redirected");
  }
}

/* Bytes at which rax, rbx, rbp and rsi hold the address that faults, and all other registers 0. */
static void test_bytes(void) {
  static const struct {
    const char *sentence;
    uint8_t bytes[12];
    bool load;
  } rows[] = {
    {"a plain load is redirected", {0x48, 0x8b, 0x08}, true},
    {"a move between registers is refused", {0x48, 0x8b, 0xc8}, false},
    {"rbp without a displacement means RIP", {0x48, 0x8b, 0x0d, 0, 0, 0, 0}, false},
    {"a sib byte without a base is not rbp", {0x48, 0x8b, 0x0c, 0x25, 0, 0, 0, 0}, false},
    {"a locked load is refused", {0xf0, 0x48, 0x8b, 0x08}, false},
    {"an add of a constant to memory is refused", {0x80, 0x00, 0x01}, false},
    {"btr is refused", {0x0f, 0xba, 0x30, 0x01}, false},
    {"not is refused", {0xf7, 0x10}, false},
    {"lodsb reads at rsi", {0xac}, true},
    {"scasb does not read at rsi", {0xae}, false},
    {"cmpsb reads at rsi", {0xa6}, true},
    {"stosb does not read", {0xaa}, false},
    {"outsb is refused", {0x6e}, false},
    {"movbe to memory is refused", {0x0f, 0x38, 0xf1, 0x08}, false},
    {"movd to memory is refused", {0x66, 0x0f, 0x7e, 0x08}, false},
    {"fst is refused", {0xd9, 0x10}, false},
    {"frstor is refused", {0xdd, 0x20}, false},
    {"xrstor is refused", {0x0f, 0xae, 0x28}, false},
    {"lss is refused", {0x0f, 0xb2, 0x08}, false},
    {"cmpxchg is refused", {0x0f, 0xb0, 0x08}, false},
    {"movnti is refused", {0x0f, 0xc3, 0x08}, false},
    {"lea is refused", {0x48, 0x8d, 0x08}, false},
    {"an instruction with a rex2 prefix is refused", {0xd5, 0x08, 0x8b, 0x08}, false},
    {"an xop instruction is refused", {0x8f, 0xe8, 0x78, 0xc0, 0x08, 0x01}, false},
    {"a vex prefix after 66 is refused", {0x66, 0xc5, 0xfe, 0x6f, 0x08}, false},
    {"a vex load is redirected", {0xc5, 0xfe, 0x6f, 0x08}, true},
    {"a vex store is refused", {0xc5, 0xfe, 0x7f, 0x08}, false},
    {"a vex map that is not known is refused", {0xc4, 0xe4, 0x7e, 0x6f, 0x08}, false},
    {"a vex prefix with a map of evex is refused", {0xc4, 0xe5, 0x7e, 0x10, 0x08}, false},
    {"blsi into rsp is refused", {0xc4, 0xe2, 0xd8, 0xf3, 0x18}, false},
    {"cvttsd2si into rsp is refused", {0xf2, 0x48, 0x0f, 0x2c, 0x23}, false},
    {"vmaskmov to memory is refused", {0xc4, 0xe2, 0x75, 0x2e, 0x08}, false},
    {"vpgatherdd is refused", {0xc4, 0xe2, 0x75, 0x90, 0x08}, false},
    {"cmpccxadd is refused", {0xc4, 0xe2, 0xf1, 0xe0, 0x08}, false},
    {"tileloadd is refused", {0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x20}, false},
    {"bzhi into rsp is refused", {0xc4, 0xe2, 0xf0, 0xf5, 0x20}, false},
    {"an evex load is redirected", {0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x08}, true},
    {"an evex load with a base of apx is refused", {0x62, 0xf9, 0xfe, 0x48, 0x6f, 0x08}, false},
    {"an evex load with an index of apx is refused", {0x62, 0xf1, 0xfa, 0x48, 0x6f, 0x08}, false},
    {"an evex load of map 4 is refused", {0x62, 0xf4, 0xfe, 0x48, 0x6f, 0x08}, false},
    {"an evex store that narrows is refused", {0x62, 0xf2, 0x7e, 0x48, 0x31, 0x08}, false},
    {"an evex load that widens is redirected", {0x62, 0xf2, 0x7d, 0x48, 0x31, 0x08}, true},
    {"an evex scatter is refused", {0x62, 0xf2, 0x7d, 0x49, 0xa0, 0x0c, 0x08}, false},
    {"an evex load of a half float is redirected", {0x62, 0xf5, 0x7e, 0x08, 0x10, 0x08}, true},
    {"an evex store of a half float is refused", {0x62, 0xf5, 0x7e, 0x08, 0x11, 0x08}, false},
  };
  uint64_t address = 0x700000001280;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ucontext_t uc;
    pf_step_t state;
    memset(&state, 0, sizeof state);
    fake(&uc, rows[i].bytes);
    static const int holders[] = {REG_RAX, REG_RBX, REG_RBP, REG_RSI};
    for (size_t j = 0; j < 4; j++) {
      uc.uc_mcontext.gregs[holders[j]] = (greg_t)address;
    }
    bool ok = rows[i].load ? pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0
                           : refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN);
    check(ok, rows[i].sentence, NULL);
  }
}

/* Two operands, and what must not be taken for the second one. */
static void test_second_operand(void) {
  static const uint8_t cmpsb[] = {0xa6}, movsb[] = {0xa4}, other_load[] = {0x48, 0x8b, 0x0b}; /* movq (%rbx), %rcx */
  uint64_t address = 0x700000001280;
  ucontext_t uc, lost;
  pf_step_t state;

  memset(&state, 0, sizeof state);
  fake(&uc, movsb);
  uc.uc_mcontext.gregs[REG_RDI] = (greg_t)address;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "the destination of movsb is refused", NULL);

  fake(&uc, cmpsb);
  uc.uc_mcontext.gregs[REG_RSI] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_RDI] = (greg_t)address + 0x3000;
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address + 0x3000;
  ucontext_t before = uc;
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "the first operand of cmpsb is redirected", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TF;
  check(refuses(&state, &lost, address + 0x3000, zeroes, PF_STEP_ZEROES_MIN), "the second operand is refused when the trap flag got lost", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)other_load;
  check(refuses(&state, &lost, address + 0x3000, zeroes, PF_STEP_ZEROES_MIN), "another stepped instruction is not taken for the second operand", NULL);
  check(!pf_step_cancel(&state, &lost), "a redirect is not taken back at another instruction", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_RSI]++;
  check(!pf_step_cancel(&state, &lost), "a redirect is not taken back when its register has moved", NULL);

  check(pf_step_redirect(&state, &uc, address + 0x3000, zeroes, PF_STEP_ZEROES_MIN) == 0 && state.count == 2, "the second operand of cmpsb is redirected", NULL);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "there is no third operand", NULL);
  check(pf_step_cancel(&state, &uc) && memcmp(&before, &uc, sizeof uc) == 0, "two redirects can be taken back", NULL);
}

/* What a copy does to the context, step by step. */
static void test_copy_contexts(void) {
  static const uint8_t code[] = {0xf3, 0xa4};
  uint64_t address = 0x700000001f80;
  ucontext_t uc;
  pf_step_t state;
  memset(&state, 0, sizeof state);
  fake(&uc, code);
  uc.uc_mcontext.gregs[REG_RSI] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_RDI] = 0x10000;
  uc.uc_mcontext.gregs[REG_RCX] = 1000;
  ucontext_t before = uc;
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "rep movsb is redirected", NULL);
  check((uc.uc_mcontext.gregs[REG_EFL] & TF) == 0 && uc.uc_mcontext.gregs[REG_RIP] != before.uc_mcontext.gregs[REG_RIP], "a copy runs elsewhere without the trap flag", NULL);
  check(uc.uc_mcontext.gregs[REG_RCX] == 128, "a copy ends with the page", NULL);
  check(refuses(&state, &uc, 0x10000, zeroes, PF_STEP_ZEROES_MIN), "the destination of a copy is refused", NULL);

  ucontext_t middle = uc;
  pf_step_t middle_state = state;
  middle.uc_mcontext.gregs[REG_RSI] += 28;
  middle.uc_mcontext.gregs[REG_RDI] += 28;
  middle.uc_mcontext.gregs[REG_RCX] -= 28;
  check(!pf_step_finish(&middle_state, &middle), "a copy in progress has not ended", NULL);
  check(pf_step_cancel(&middle_state, &middle) && middle_state.count == 0, "a copy in progress can be taken back", NULL);
  ucontext_t expected = before;
  expected.uc_mcontext.gregs[REG_RSI] += 28;
  expected.uc_mcontext.gregs[REG_RDI] += 28;
  expected.uc_mcontext.gregs[REG_RCX] -= 28;
  check(memcmp(&expected, &middle, sizeof middle) == 0, "and has then done the rounds it did", NULL);

  uc.uc_mcontext.gregs[REG_RSI] += 128;
  uc.uc_mcontext.gregs[REG_RDI] += 128;
  uc.uc_mcontext.gregs[REG_RCX] = 0;
  uc.uc_mcontext.gregs[REG_RIP] += 2;
  check(!pf_step_finish(&state, &uc) && !pf_step_cancel(&state, &uc), "a copy ends behind its breakpoint only", NULL);
  uc.uc_mcontext.gregs[REG_RIP] += 1;
  check(pf_step_finish(&state, &uc), "a copy ends behind its breakpoint", NULL);
  expected = before;
  expected.uc_mcontext.gregs[REG_RSI] += 128;
  expected.uc_mcontext.gregs[REG_RDI] += 128;
  expected.uc_mcontext.gregs[REG_RCX] -= 128;
  check(memcmp(&expected, &uc, sizeof uc) == 0, "and the instruction goes on with the rounds that are left", NULL);

  fake(&uc, code);
  uc.uc_mcontext.gregs[REG_RSI] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_RCX] = 1000;
  uc.uc_mcontext.gregs[REG_EFL] |= TF;
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0 && uc.uc_mcontext.gregs[REG_RIP] == (greg_t)(uintptr_t)code &&
          pf_step_cancel(&state, &uc),
        "a program that is stepped already is stepped through rep movsb", NULL);

  /* Little room behind the place: the copy must not read behind the area. */
  for (unsigned offset = 1; offset <= PAGE; offset += 63) {
    fake(&uc, code);
    uc.uc_mcontext.gregs[REG_RSI] = (greg_t)(0x700000001000 + offset % PAGE);
    uc.uc_mcontext.gregs[REG_RCX] = 100000;
    size_t len = PAGE + 127;
    bool ok = pf_step_redirect(&state, &uc, (uint64_t)uc.uc_mcontext.gregs[REG_RSI], zeroes, len) == 0;
    uint64_t last = (uint64_t)(uc.uc_mcontext.gregs[REG_RSI] + uc.uc_mcontext.gregs[REG_RCX]);
    check(ok && uc.uc_mcontext.gregs[REG_RCX] > 0 && last <= (uintptr_t)zeroes + len, "a copy stays in the zeroes", NULL);
    check(pf_step_cancel(&state, &uc), "a copy can be taken back", NULL);
  }
}

static void test_ambiguous_registers(void) {
  static const uint8_t far_disp[] = {0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x48, 0x80}; /* vmovdqu64 -0x2000(%rax), %zmm1 */
  static const uint8_t own[] = {0x48, 0x8b, 0x04, 0x08};                        /* movq (%rax,%rcx), %rax */
  uint64_t address = 0x700000001280;
  ucontext_t uc;
  pf_step_t state;

  memset(&state, 0, sizeof state);
  fake(&uc, far_disp);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address + 0x2000;
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "an evex load below its base is redirected", NULL);
  uint64_t target = (uint64_t)uc.uc_mcontext.gregs[REG_RAX] - 0x2000;
  check(refuses(&state, &uc, target + 0x2000 - 0x80, zeroes, PF_STEP_ZEROES_MIN), "a register that is redirected is not redirected again", NULL);

  memset(&state, 0, sizeof state);
  fake(&uc, own);
  uc.uc_mcontext.gregs[REG_RCX] = (greg_t)target;
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)(address - target);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "a destination that would be redirected to 0 is refused", NULL);
  uc.uc_mcontext.gregs[REG_RCX]++;
  uc.uc_mcontext.gregs[REG_RAX]--;
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "and one that would not be is redirected", NULL);
}

static void test_contexts(void) {
  static const uint8_t load[] = {0x48, 0x8b, 0x08}; /* movq (%rax), %rcx */
  static const uint8_t flood[] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x8b, 0x08};
  uint64_t address = 0x700000001238;
  ucontext_t uc;
  pf_step_t state;
  memset(&state, 0, sizeof state);

  for (int distance = -64; distance <= 128; distance++) {
    memset(&state, 0, sizeof state);
    fake(&uc, load);
    uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
    bool inside = distance >= 0 && distance < 64;
    int result = pf_step_redirect(&state, &uc, address + (uint64_t)(int64_t)distance, zeroes, PF_STEP_ZEROES_MIN);
    check(result == (inside ? 0 : -ENOTSUP), "an address is accepted up to 63 bytes into the operand and nowhere else", NULL);
    if (result != 0) {
      continue;
    }
    uint64_t start = (uint64_t)uc.uc_mcontext.gregs[REG_RAX] - (uintptr_t)zeroes;
    check(start + 64 <= PF_STEP_ZEROES_MIN, "the whole operand lies in the zeroes", NULL);
    check(start % PAGE == address % PAGE, "the operand lies as it did in its page", NULL);
  }

  for (unsigned at = 0; at < PAGE; at += 7) {
    for (unsigned shift = 0; shift < 64; shift += 21) {
      memset(&state, 0, sizeof state);
      fake(&uc, load);
      uint64_t here = 0x700000001000 + at;
      uc.uc_mcontext.gregs[REG_RAX] = (greg_t)here;
      size_t len = PAGE + 64 + 127;
      bool ok = pf_step_redirect(&state, &uc, here, zeroes + shift, len) == 0;
      uint64_t start = (uint64_t)uc.uc_mcontext.gregs[REG_RAX] - (uintptr_t)(zeroes + shift);
      check(ok && start >= 64 && start + 64 <= len, "an area that is not aligned has room around the operand", NULL);
    }
  }

  memset(&state, 0, sizeof state);
  fake(&uc, load);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  check(refuses(&state, &uc, address, zeroes, 127), "an area that is too small is refused", NULL);
  check(refuses(&state, &uc, address, zeroes, 0), "an empty area is refused", NULL);
  check(refuses(&state, &uc, address, zeroes + 0x239, PAGE), "an area in which no place lies as in the page is refused", NULL);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)(uintptr_t)zeroes + 64;
  check(refuses(&state, &uc, (uintptr_t)zeroes + 64, zeroes, PF_STEP_ZEROES_MIN), "a fault in the area itself is refused", NULL);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_ERR] = 4 | 2;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "a write fault is refused", NULL);
  uc.uc_mcontext.gregs[REG_ERR] = 4 | 16;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "a fetch fault is refused", NULL);
  fake(&uc, load);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)(uintptr_t)load;
  check(refuses(&state, &uc, (uintptr_t)load, zeroes, PF_STEP_ZEROES_MIN), "a fault at the instruction itself is refused", NULL);
  fake(&uc, flood);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "more than 15 bytes are no instruction", NULL);

  /* Round trip of the parts of the context that are changed. */
  fake(&uc, load);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  ucontext_t before = uc;
  check(!pf_step_finish(&state, &uc) && !pf_step_cancel(&state, &uc), "without a redirect there is none to end", NULL);
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "a load is redirected", NULL);
  check((uc.uc_mcontext.gregs[REG_EFL] & TF) != 0, "the trap flag is set", NULL);
  check(sigismember(&uc.uc_sigmask, SIGALRM) == 1 && sigismember(&uc.uc_sigmask, SIGPROF) == 1, "signals that can wait are blocked meanwhile", NULL);
  check(sigismember(&uc.uc_sigmask, SIGTRAP) == 0 && sigismember(&uc.uc_sigmask, SIGSEGV) == 0 && sigismember(&uc.uc_sigmask, SIGBUS) == 0,
        "signals that the load can raise are not", NULL);
  check(memcmp((char *)&uc.uc_sigmask + 8, (char *)&before.uc_sigmask + 8, sizeof uc.uc_sigmask - 8) == 0,
        "nothing is written behind the 64 bits of the kernel's signal mask", NULL);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN), "the same operand is not redirected twice", NULL);

  pf_step_t open_state = state;
  ucontext_t other_uc;
  fake(&other_uc, load + 1);
  other_uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  check(refuses(&state, &other_uc, address, zeroes, PF_STEP_ZEROES_MIN), "another instruction is refused while one is redirected", NULL);
  check(!pf_step_cancel(&state, &other_uc) && !pf_step_finish(&state, &other_uc), "another context does not end a redirect", NULL);

  check(pf_step_cancel(&state, &uc) && state.count == 0, "a redirect can be taken back", NULL);
  check(memcmp(&before, &uc, sizeof uc) == 0, "and leaves the context as it was", NULL);

  state = open_state;
  check(pf_step_redirect(&open_state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == -ENOTSUP, "a redirect whose context got lost is not continued", NULL);
  memset(&state, 0, sizeof state);
  check(pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN) == 0, "a load is redirected again", NULL);
  uc.uc_mcontext.gregs[REG_RIP] += 100;
  check(!pf_step_finish(&state, &uc), "a trap elsewhere does not end a redirect", NULL);
  uc.uc_mcontext.gregs[REG_RIP] += (greg_t)sizeof load - 100;
  check(pf_step_finish(&state, &uc) && state.count == 0, "a trap behind the instruction does", NULL);
  uc.uc_mcontext.gregs[REG_RIP] -= (greg_t)sizeof load;
  check(memcmp(&before, &uc, sizeof uc) == 0, "and puts the context back", NULL);
  uc.uc_mcontext.gregs[REG_EFL] |= TF;
  before = uc;
  check(!pf_step_finish(&state, &uc) && !pf_step_cancel(&state, &uc) && memcmp(&before, &uc, sizeof uc) == 0, "a redirect ends once", NULL);
}

/* The last instruction of a page of code, with nothing mapped behind it. */
static void test_end_of_code(void) {
  static const struct {
    uint8_t bytes[8];
    unsigned len;
    bool load;
  } codes[] = {
    {{0x8b, 0x08}, 2, true},                   /* movl (%rax), %ecx */
    {{0x48, 0x8b, 0x48, 0x00}, 4, true},       /* movq 0(%rax), %rcx */
    {{0x8b, 0x0c, 0x20}, 3, true},             /* movl (%rax), %ecx with a sib byte */
    {{0x80, 0x38, 0x01}, 3, true},             /* cmpb $1, (%rax) */
    {{0xc5, 0xfe, 0x6f, 0x00}, 4, true},       /* vmovdqu (%rax), %ymm0 */
    {{0xac}, 1, false},                        /* lodsb; rsi is elsewhere */
    {{0xd7}, 1, false},                        /* xlat; rbx is elsewhere */
    {{0xc3}, 1, false},                        /* ret */
    {{0x0f, 0x0b}, 2, false},                  /* ud2 */
    {{0x0f, 0x77}, 2, false},                  /* emms */
    {{0xc5, 0xf8, 0x77}, 3, false},            /* vzeroupper */
    {{0xf3, 0xaa}, 2, false},                  /* rep stosb */
  };
  uint8_t *code = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(code != MAP_FAILED && mprotect(code + PAGE, PAGE, PROT_NONE) == 0, "mmap");
  uint64_t address = 0x700000001238;
  for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
    ucontext_t uc;
    pf_step_t state;
    memset(&state, 0, sizeof state);
    uint8_t *at = code + PAGE - codes[i].len;
    memcpy(at, codes[i].bytes, codes[i].len);
    fake(&uc, at);
    uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
    int result = pf_step_redirect(&state, &uc, address, zeroes, PF_STEP_ZEROES_MIN);
    check(result == (codes[i].load ? 0 : -ENOTSUP), "nothing is read behind an instruction at the end of the code", NULL);
  }
  munmap(code, 2 * PAGE);
}

/* Every opcode of every map, with operands of random registers: nothing crashes, and what is refused is untouched. */
static void test_random_bytes(void) {
  random_state = 5;
  uint8_t bytes[16];
  bool ok = true;
  for (unsigned i = 0; i < 300000; i++) {
    ucontext_t uc;
    pf_step_t state;
    for (unsigned j = 0; j < sizeof bytes; j++) {
      bytes[j] = (uint8_t)(random64() >> 11);
    }
    static const uint8_t starts[] = {0x0f, 0xc4, 0xc5, 0x62, 0x66, 0xf2, 0xf3, 0x48, 0x64};
    if (i % 3 != 0) {
      bytes[0] = starts[i % sizeof starts];
    }
    memset(&state, 0, sizeof state);
    fake(&uc, bytes);
    for (int reg = 0; reg < 16; reg++) {
      uc.uc_mcontext.gregs[reg] = (greg_t)(0x700000001000 + (random64() & 15));
    }
    ucontext_t before = uc;
    int result = pf_step_redirect(&state, &uc, 0x700000001010, zeroes, PF_STEP_ZEROES_MIN);
    if (result == 0) {
      ok = ok && state.count == 1 && pf_step_cancel(&state, &uc);
    } else {
      ok = ok && result == -ENOTSUP && state.count == 0;
    }
    ok = ok && memcmp(&before, &uc, sizeof uc) == 0;
  }
  check(ok, "any bytes are either redirected, and that can be taken back, or refused", NULL);
}

static volatile unsigned alarms, alarms_in_step;

static void on_alarm(int sig, siginfo_t *info, void *context) {
  (void)sig, (void)info;
  ucontext_t *uc = context;
  alarms++;
  if ((uc->uc_mcontext.gregs[REG_EFL] & TF) != 0 || step.count != 0) {
    alarms_in_step++;
  }
}

static void test_other_signals(void) {
  cpu_t *start = aligned_alloc(64, sizeof *start), *cpu = aligned_alloc(64, sizeof *cpu);
  must(start != NULL && cpu != NULL, "aligned_alloc");
  const form_t *form = form_named(code_add);
  set_bad(arena, PROT_NONE);
  fill(start, 6, 0);
  aim(form, start, (uintptr_t)arena + PAGE + 0x40);
  install(SIGALRM, on_alarm, SA_RESTART);
  sigset_t before, after;
  must(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0, "pthread_sigmask");
  struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
  must(setitimer(ITIMER_REAL, &often, NULL) == 0, "setitimer");
  bool same = true;
  for (int i = 0; i < 20000 || (alarms < 20 && i < 200000); i++) {
    if (i % 1024 == 0) { /* ThreadSanitizer delivers signals in calls like this */
      usleep(1);
    }
    *cpu = *start;
    run_form(form, cpu);
    same = same && cpu->gpr[RBX] == start->gpr[RBX] && cpu->gpr[RCX] == start->gpr[RCX] && seen.ended == 1;
  }
  must(setitimer(ITIMER_REAL, &never, NULL) == 0, "setitimer");
  must(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0, "pthread_sigmask");
  check(same, "loads are redirected while other signals arrive", NULL);
  check(alarms > 0, "other signals arrive afterwards", NULL);
  check(alarms_in_step == 0, "no other handler runs while a load is redirected", NULL);
  bool same_blocked = true;
  for (int sig = 1; sig < NSIG; sig++) {
    same_blocked = same_blocked && sigismember(&before, sig) == sigismember(&after, sig);
  }
  check(same_blocked, "the blocked signals are put back", NULL);
  free(start);
  free(cpu);
}

/* --- the C library over a bad page --- */

/* Through pointers, so that the compiler does not put its own code in place of the calls. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
static void *(*volatile move)(void *, const void *, size_t) = memmove;
static int (*volatile compare)(const void *, const void *, size_t) = memcmp;
static void *(*volatile search)(const void *, int, size_t) = memchr;

static void test_library(void) {
  uint8_t *into = aligned_alloc(PAGE, ARENA_PAGES * PAGE);
  must(into != NULL, "aligned_alloc");
  set_bad(arena, PROT_NONE);
  memset(arena, 0x11, PAGE);
  memset(arena + 2 * PAGE, 0x22, PAGE);
  memset(arena + 4 * PAGE, 0x33, PAGE);
  memset(&seen, 0, sizeof seen);

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  copy(into, arena, 3 * PAGE);
  check(all(into, PAGE, 0x11) && all(into + PAGE, PAGE, 0) && all(into + 2 * PAGE, PAGE, 0x22), "memcpy copies zeroes for a bad page and data for good ones", NULL);

  for (size_t len = 1; len < 600; len += len < 70 ? 1 : 37) {
    memset(into, 0xaa, PAGE);
    copy(into + 8, arena + PAGE + 24, len);
    check(all(into, 8, 0xaa) && all(into + 8, len, 0) && all(into + 8 + len, 64, 0xaa), "memcpy of any length stays in its bounds", NULL);
  }

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  copy(into + 3, arena + PAGE - 1000, PAGE + 2000);
  check(all(into + 3, 1000 - 64, 0x11) && all(into + 3 + 1000, PAGE, 0) && all(into + 3 + 1000 + PAGE + 64, 1000 - 64, 0x22) && into[3 + 2000 + PAGE] == 0xaa,
        "memcpy of unaligned data loses no more than one operand beside the bad page", NULL);

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  move(into, arena, ARENA_PAGES * PAGE);
  check(all(into + PAGE, PAGE, 0) && all(into + 3 * PAGE, PAGE, 0) && all(into + 4 * PAGE, PAGE, 0x33), "memmove copies over two bad pages", NULL);

  check(compare(arena, into, ARENA_PAGES * PAGE) == 0, "memcmp sees zeroes on a bad page", NULL);
  check(compare(arena + PAGE, arena + 3 * PAGE, PAGE) == 0, "memcmp compares two bad pages", NULL);
  into[PAGE + 1234] = 1;
  check(compare(arena + PAGE, into + PAGE, PAGE) < 0, "memcmp finds a difference on a bad page", NULL);
  check(search(arena, 0x22, 3 * PAGE) == arena + 2 * PAGE, "memchr searches on behind a bad page", NULL);
  check(search(arena, 0, 3 * PAGE) == arena + PAGE, "memchr finds a zero on a bad page", NULL);
  check(search(arena + PAGE + 5, 0x77, PAGE - 5) == NULL, "memchr finds nothing else there", NULL);
  check(strnlen((char *)arena + PAGE, PAGE) == 0, "strnlen finds the end at once", NULL);
  check(seen.refused == 0 && seen.redirected > 0, "nothing of this was refused", NULL);

  int ends[2];
  must(pipe(ends) == 0, "pipe");
  errno = 0;
  check(write(ends[1], arena + PAGE, 1) == -1 && errno == EFAULT, "the bad page is not mapped afterwards", NULL);
  close(ends[0]);
  close(ends[1]);
  memset(arena, 0, PAGE);
  memset(arena + 2 * PAGE, 0, PAGE);
  memset(arena + 4 * PAGE, 0, PAGE);
  free(into);
}

static void *copy_often(void *result) {
  uint8_t into[512];
  bool ok = true;
  memset(&seen, 0, sizeof seen);
  for (unsigned i = 0; i < 2000; i++) {
    size_t len = 1 + i % 200;
    memset(into, 0xaa, sizeof into);
    copy(into + 16, arena + PAGE + i % 3000, len);
    ok = ok && all(into, 16, 0xaa) && all(into + 16, len, 0) && all(into + 16 + len, 64, 0xaa);
  }
  *(bool *)result = ok && seen.refused == 0 && seen.redirected >= 2000;
  return NULL;
}

static void test_threads(void) {
  enum { THREADS = 4 };
  pthread_t threads[THREADS];
  bool ok[THREADS] = {false};
  set_bad(arena, PROT_NONE);
  for (int i = 0; i < THREADS; i++) {
    must(pthread_create(&threads[i], NULL, copy_often, &ok[i]) == 0, "pthread_create");
  }
  for (int i = 0; i < THREADS; i++) {
    must(pthread_join(threads[i], NULL) == 0, "pthread_join");
  }
  for (int i = 0; i < THREADS; i++) {
    check(ok[i], "threads read the same bad page at the same time", NULL);
  }
}

int main(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  arena = mmap(NULL, ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
  must(arena != MAP_FAILED, "mmap");
  low_arena = mmap((void *)(uintptr_t)LOW_ARENA, ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
  must(low_arena == (void *)(uintptr_t)LOW_ARENA, "mmap below 2 GiB");
  zeroes = mmap((void *)(uintptr_t)ZEROES, PF_STEP_ZEROES_MIN, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0);
  must(zeroes == (void *)(uintptr_t)ZEROES, "mmap below 2 GiB");
  measure_vectors();
  install(SIGSEGV, on_fault, SA_NODEFER);
  install(SIGTRAP, on_trap, 0);

  test_forms();
  test_straddling_over_data();
  test_copies();
  test_copy_contexts();
  test_stepping_already();
  test_refusals_as_reads();
  test_bytes();
  test_second_operand();
  test_ambiguous_registers();
  test_contexts();
  test_end_of_code();
  test_random_bytes();
  test_other_signals();
  test_library();
  test_threads();
  set_bad(near_arena, PROT_READ | PROT_WRITE); /* a leak checker looks through all variables */
  return summary();
}

#endif
