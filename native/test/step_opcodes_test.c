/* sanitizers: address,thread,none */
/* Tests of step.c with instructions that nobody chose: the end of the code, any bytes, and every opcode, which must do redirected what the processor does on zeroes. */
#include "step_machine.h"

#if !defined(__x86_64__)

int main(void) { return summary(); }

#else

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
    int result = redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN);
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
    if (i % 2 == 0) {
      as_write(&uc);
    }
    ucontext_t before = uc;
    int result = redirect(&state, &uc, 0x700000001010, zeroes, PF_STEP_AREA_MIN);
    if (result == 0) {
      ok = ok && state.count == 1 && pf_step_cancel(&state, &uc);
    } else {
      ok = ok && result == -ENOTSUP && state.count == 0;
    }
    ok = ok && memcmp(&before, &uc, sizeof uc) == 0;
  }
  check(ok, "any bytes are either redirected, and that can be taken back, or refused", NULL);
}

/* --- all opcodes, against the processor --- */

#define OPCODE_PAD 12 /* what of it is no constant of the instruction is run as nop */
static uint8_t *opcode_code; /* an instruction, nops, a jump to run_back */
static volatile bool opcode_unknown;
static struct {
  unsigned loads, stores, modifies;
} opcodes;

static void on_unknown(int sig, siginfo_t *info, void *context) {
  (void)sig, (void)info;
  ucontext_t *uc = context;
  opcode_unknown = true;
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)run_back;
}

/* The fault is redirected as a read (bit 0) or a write (bit 1). */
static int opcode_access(const uint8_t *code, uint64_t address) {
  int access = 0;
  for (int write = 0; write < 2; write++) {
    ucontext_t uc;
    pf_step_t state;
    memset(&state, 0, sizeof state);
    fake(&uc, code);
    if (write) {
      as_write(&uc);
    }
    uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address;
    access |= redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0 ? 1 << write : 0;
  }
  return access;
}

static bool opcode_fails(const uint8_t *code, unsigned len, const char *what) {
  char detail[100] = {0};
  for (unsigned i = 0; i < len; i++) {
    snprintf(detail + strlen(detail), sizeof detail - strlen(detail), "%02x ", code[i]);
  }
  check(false, what, detail);
  return false;
}

/* Runs the instruction of `len` bytes, whose memory is at rbx, on zeroes and redirected. */
static bool try_opcode(const uint8_t *code, unsigned len) {
  static cpu_t start, expected, actual;
  uint8_t *page = arena + PAGE, *at = page + 0x640;
  memset(opcode_code, 0x90, 16 + OPCODE_PAD);
  memcpy(opcode_code, code, len);
  int access = opcode_access(opcode_code, (uintptr_t)at);
  if (access == 0) {
    return true;
  }
  bool writes = (access & 2) != 0;
  fill(&start, 77, ARITHMETIC);
  start.gpr[RBX] = (uintptr_t)at;
  expected = actual = start;

  opcode_unknown = false;
  set_bad(arena, PROT_READ | (writes ? PROT_WRITE : 0));
  run_at(opcode_code, run_back, false, &expected);
  bool faulted = seen.faults != 0, wrote = writes && !all(page, PAGE, 0);
  if (wrote) {
    memset(page, 0, PAGE);
  }
  if (opcode_unknown) {
    return true;
  }
  if (faulted) {
    return opcode_fails(code, len, "what is redirected runs on zeroes");
  }
  set_bad(arena, access == 3 ? PROT_READ : PROT_NONE); /* what reads and writes must not be stopped by the read alone */
  run_at(opcode_code, run_back, false, &actual);
  bool redirected = seen.faults == 1 && seen.redirected == 1 && seen.ended == 1 && seen.was_write == writes;
  set_bad(arena, PROT_READ);
  if (seen.faults != 0 || wrote) {
    if (!redirected) {
      return opcode_fails(code, len, "what is redirected faults once, as the decoder says");
    }
    opcodes.loads += access == 1;
    opcodes.stores += access == 2;
    opcodes.modifies += access == 3;
  }
  const char *what = difference(&expected, &actual);
  if (what != NULL || !all(page, PAGE, 0)) {
    return opcode_fails(code, len, what != NULL ? what : "the memory was written");
  }
  return true;
}

/* With the memory at rbx: modrm.rm is 3. */
static bool try_legacy_opcodes(void) {
  static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3}, maps[] = {0, 0x0f, 0x38, 0x3a};
  bool ok = true;
  for (unsigned i = 0; i < 4 * 4 * 2 * 256 * 8; i++) {
    uint8_t prefix = prefixes[i & 3], map = maps[i >> 2 & 3], op = (uint8_t)(i >> 5), reg = i >> 13 & 7, code[8];
    bool is_string_or_xlat = map == 0 && ((op >= 0xa4 && op <= 0xaf) || op == 0xd7);
    bool is_cmpxchg = map == 0x0f && (op == 0xb0 || op == 0xb1 || op == 0xc7); /* finds something else than zeroes */
    if (is_string_or_xlat || is_cmpxchg) {
      continue;
    }
    unsigned len = 0;
    if (prefix != 0) {
      code[len++] = prefix;
    }
    if ((i & 16) != 0) {
      code[len++] = 0x48;
    }
    if (map != 0) {
      code[len++] = 0x0f;
    }
    if (map > 0x0f) {
      code[len++] = map;
    }
    code[len++] = op;
    code[len++] = (uint8_t)(reg << 3 | 3);
    ok = try_opcode(code, len) && ok;
  }
  return ok;
}

static bool try_vector_opcodes(void) {
  static const uint8_t maps[] = {1, 2, 3, 5, 6}, regs[] = {1, 3, 4};
  bool ok = true;
  for (unsigned i = 0; i < 4 * 2 * 2 * 2 * 256 * 3; i++) {
    uint8_t pp = i & 3, w = i >> 2 & 1, l = i >> 3 & 1, vvvv = i >> 4 & 1 ? 2 : 0, op = (uint8_t)(i >> 5), reg = regs[i >> 13];
    uint8_t p1 = (uint8_t)(w << 7 | (~vvvv & 15) << 3 | pp), modrm = (uint8_t)(reg << 3 | 3);
    for (unsigned m = 0; m < 3; m++) {
      ok = try_opcode((uint8_t[]){0xc4, 0xe0 | maps[m], p1 | (uint8_t)(l << 2), op, modrm}, 5) && ok;
    }
    for (unsigned m = 0; m < 5; m++) {
      ok = try_opcode((uint8_t[]){0x62, 0xf0 | maps[m], p1 | 4, (uint8_t)(l << 6 | 8), op, modrm}, 6) && ok;
    }
  }
  return ok;
}

static void test_all_opcodes(void) {
  opcode_code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (opcode_code == MAP_FAILED) {
    printf("all opcodes skipped: no memory may be written and run here\n");
    return;
  }
  static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp *(%rip) */
  uint64_t back = (uintptr_t)run_back;
  memcpy(opcode_code + 16 + OPCODE_PAD, jump, sizeof jump);
  memcpy(opcode_code + 16 + OPCODE_PAD + sizeof jump, &back, 8);
  install(SIGILL, on_unknown, 0);
  set_bad(arena, PROT_READ | PROT_WRITE);
  memset(arena, 0, ARENA_PAGES * PAGE);
  check(try_legacy_opcodes(), "every opcode does redirected what it does on zeroes", NULL);
  check(try_vector_opcodes(), "every opcode with a vex or evex prefix does redirected what it does on zeroes", NULL);
  check(opcodes.loads > 1000 && opcodes.stores > 200 && opcodes.modifies > 300, "the opcodes were really run", NULL);
  printf("opcodes run: %u loads, %u stores, %u that do both\n", opcodes.loads, opcodes.stores, opcodes.modifies);
  signal(SIGILL, SIG_DFL);
  munmap(opcode_code, PAGE);
}

int main(void) {
  prepare();
  test_end_of_code();
  test_random_bytes();
  test_all_opcodes();
  return finish();
}

#endif
