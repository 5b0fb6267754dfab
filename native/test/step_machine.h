/*
 * What the tests of step.c share: pages of which some may not be touched, handlers that redirect what touches them, and a way to run one instruction with all registers
 * chosen and all registers kept. Included once a program.
 */
#ifndef PF_TEST_STEP_MACHINE_H
#define PF_TEST_STEP_MACHINE_H

#include "step.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int passed, failed;

static inline void check(bool ok, const char *sentence, const char *detail) {
  if (ok) {
    passed++;
    return;
  }
  failed++;
  printf("failed: %s%s%s\n", sentence, detail ? ": " : "", detail ? detail : "");
}

static inline int summary(void) {
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

#if defined(__x86_64__)

#include <cpuid.h>

#define PAGE 4096u
#define TF 0x100u
#define DF 0x400u
#define ARITHMETIC 0x8d5u /* CF, PF, AF, ZF, SF, OF */

/* --- memory: good, bad, good, bad, good --- */

#define ARENA_PAGES 5
#define LOW_ARENA 0x20000000u
#define ZEROES 0x3b7a5000u
#define SINK 0x5c3d6000u

static uint8_t *arena;     /* wherever the kernel puts it */
static uint8_t *low_arena; /* at LOW_ARENA, for absolute addresses */
static uint8_t near_arena[ARENA_PAGES * PAGE] __attribute__((aligned(4096), used)); /* within reach of RIP */
static const uint8_t *zeroes; /* far from the others, so that a shifted register differs in all its parts */
static _Thread_local uint8_t *sink;

static inline void must(bool ok, const char *what) {
  if (ok) {
    return;
  }
  perror(what);
  exit(2);
}

/* An area between pages that may not be touched. */
static inline uint8_t *map_sink(uintptr_t at) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at != 0 ? MAP_FIXED_NOREPLACE : 0);
  uint8_t *area = mmap((void *)at, PF_STEP_AREA_MIN + 2 * PAGE, PROT_NONE, flags, -1, 0);
  must(area != MAP_FAILED && mprotect(area + PAGE, PF_STEP_AREA_MIN, PROT_READ | PROT_WRITE) == 0, "mmap of a sink");
  memset(area + PAGE, 0x5a, PF_STEP_AREA_MIN);
  return area + PAGE;
}

static inline int redirect(pf_step_t *state, ucontext_t *uc, uintptr_t addr, const void *area, size_t len) {
  pf_step_areas_t areas = {area, len, sink, PF_STEP_AREA_MIN};
  return pf_step_redirect(state, uc, addr, &areas);
}

static inline void set_bad(uint8_t *pages, int protection) {
  must(mprotect(pages + PAGE, PAGE, protection) == 0, "mprotect");
  must(mprotect(pages + 3 * PAGE, PAGE, protection) == 0, "mprotect");
}

/* --- handlers --- */

static _Thread_local pf_step_t step;
static _Thread_local struct {
  unsigned faults, redirected, refused, ended, foreign;
  bool foreign_behind; /* a trap that ended no redirect came directly behind the instruction's jump */
  bool touched;      /* a refusal changed the context */
  bool was_write;    /* the last fault was one, as the processor says */
  uint64_t last_rip; /* where the last redirect ended */
  uint64_t skip_to;  /* where to go on after a refusal */
  uint8_t *served;   /* a page that is made writable when it faults, as another segment's would be */
  unsigned served_times;
} seen;
extern const char run_back[] __attribute__((visibility("hidden")));

static inline void on_fault(int sig, siginfo_t *info, void *context) {
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
  seen.was_write = (uc->uc_mcontext.gregs[REG_ERR] & 2) != 0;
  if (info->si_code == SEGV_ACCERR &&
      redirect(&step, uc, (uintptr_t)info->si_addr, zeroes, PF_STEP_AREA_MIN) == 0) {
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

static inline void on_trap(int sig, siginfo_t *info, void *context) {
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

static inline void install(int sig, void (*handler)(int, siginfo_t *, void *), int flags) {
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
static inline void measure_vectors(void) {
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
static inline uint64_t random64(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return random_state ^ random_state >> 29;
}

static inline void fill(cpu_t *cpu, uint64_t seed, uint64_t flags) {
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

static inline void run_at(const void *code, const void *end, bool push, cpu_t *cpu) {
  memset(&seen, 0, sizeof seen);
  seen.skip_to = (uintptr_t)end;
  run_code = (uintptr_t)code;
  run(cpu);
  /* What may differ: the x87's memory of its last instruction and operand, and the header of the area. */
  memset(cpu->vectors + 6, 0, 18);
  memset(cpu->vectors + 416, 0, 160);
  if (!push) {
    cpu->top = cpu->gpr[RSP] = 0;
  }
}

static inline const char *difference(const cpu_t *a, const cpu_t *b) {
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

static inline bool all(const uint8_t *bytes, size_t len, uint8_t value) {
  for (size_t i = 0; i < len; i++) {
    if (bytes[i] != value) {
      return false;
    }
  }
  return true;
}

/* All pages of the arena hold this, and its bad ones may not be touched. */
static inline void set_arena(uint8_t value) {
  set_bad(arena, PROT_READ | PROT_WRITE);
  memset(arena, value, ARENA_PAGES * PAGE);
  set_bad(arena, PROT_NONE);
}

/* Whether the bad pages still hold it. They may be read afterwards. */
static inline bool bad_hold(uint8_t value) {
  set_bad(arena, PROT_READ);
  return all(arena + PAGE, PAGE, value) && all(arena + 3 * PAGE, PAGE, value);
}

/* Fills in a context as the kernel would for a read fault at an instruction. */
static inline void fake(ucontext_t *uc, const void *rip) {
  memset(uc, 0, sizeof *uc);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)rip;
  uc->uc_mcontext.gregs[REG_EFL] = 0x202;
  uc->uc_mcontext.gregs[REG_TRAPNO] = 14;
  uc->uc_mcontext.gregs[REG_ERR] = 4;
  sigaddset(&uc->uc_sigmask, SIGUSR1);
  sigaddset(&uc->uc_sigmask, SIGTRAP);
}

static inline bool refuses(pf_step_t *state, ucontext_t *uc, uintptr_t addr, const void *area, size_t len) {
  ucontext_t before = *uc;
  pf_step_t state_before = *state;
  return redirect(state, uc, addr, area, len) == -ENOTSUP && memcmp(&before, uc, sizeof before) == 0 &&
         memcmp(&state_before, state, sizeof state_before) == 0;
}

static inline void as_write(ucontext_t *uc) {
  uc->uc_mcontext.gregs[REG_ERR] = 4 | 2;
}

/* --- beginning and ending -------------------------------------------------------------------------------------------------- */

static inline void prepare(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  arena = mmap(NULL, ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
  must(arena != MAP_FAILED, "mmap");
  low_arena = mmap((void *)(uintptr_t)LOW_ARENA, ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
  must(low_arena == (void *)(uintptr_t)LOW_ARENA, "mmap below 2 GiB");
  zeroes = mmap((void *)(uintptr_t)ZEROES, PF_STEP_AREA_MIN, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0);
  must(zeroes == (void *)(uintptr_t)ZEROES, "mmap below 2 GiB");
  sink = map_sink(SINK);
  measure_vectors();
  install(SIGSEGV, on_fault, SA_NODEFER);
  install(SIGTRAP, on_trap, 0);
}

static inline int finish(void) {
  set_bad(near_arena, PROT_READ | PROT_WRITE); /* a leak checker looks through all variables */
  return summary();
}

#endif
#endif
