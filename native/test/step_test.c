/* sanitizers: address,thread,none */
/* Tests of step.c: every kind of access runs twice at the same address with the same registers, once on a page of zeroes
 * and once on a page that may not be read or written, redirected. All registers, flags, vectors and memory written
 * elsewhere must be equal, and the page must stay as it was. See step_opcodes_test.c and step_library_test.c, too.
 *
 * Prints a line for each failure and `N passed, N failed`. */
#include "step_machine.h"

#include <sys/time.h>

#if !defined(__x86_64__)

int main(void) {
  pf_step_t step = {0};
  ucontext_t uc;
  static char zeroes[PF_STEP_AREA_MIN], sink[PF_STEP_AREA_MIN];
  pf_step_areas_t areas = {zeroes, sizeof zeroes, sink, sizeof sink};
  memset(&uc, 0, sizeof uc);
  check(pf_step_redirect(&step, &uc, 4096, &areas) == -ENOTSUP, "without a trap flag a load is refused", NULL);
  check(!pf_step_finish(&step, &uc), "without a trap flag no trap ends a redirect", NULL);
  check(!pf_step_cancel(&step, &uc), "without a trap flag there is nothing to cancel", NULL);
  return summary();
}

#else

#include "step_forms.h"

/* --- each of them, on zeroes and redirected --- */

/* What cmpxchg expects, and zeroes around it. */
static void set_expected(const form_t *form, const cpu_t *cpu, uint8_t *pages, uint64_t target) {
  uint8_t *at = pages + (target - (uintptr_t)pages);
  memset(pages, 0, ARENA_PAGES * PAGE);
  memcpy(at, &cpu->gpr[RAX], form->expect);
  if (form->expect_pair) {
    memcpy(at + form->expect, &cpu->gpr[RDX], form->expect);
  }
}

static void check_redirected(const form_t *form, uint64_t target, uint64_t flags) {
  static cpu_t start, expected, actual;
  uint8_t expected_dest[sizeof dest];
  uint8_t *pages = arena_of(form);
  fill(&start, target ^ flags, flags);
  aim(form, &start, target);

  memset(dest, 0xaa, sizeof dest);
  set_bad(pages, form->store ? PROT_READ | PROT_WRITE : PROT_READ);
  expected = start;
  if (form->store) {
    set_expected(form, &start, pages, target);
  }
  run_form(form, &expected);
  bool quiet = seen.faults == 0 && seen.ended == 0 && seen.foreign == 0;
  memcpy(expected_dest, dest, sizeof dest);

  memset(dest, 0xaa, sizeof dest);
  if (form->store) {
    memset(pages, 0, ARENA_PAGES * PAGE);
  }
  set_bad(pages, PROT_NONE);
  actual = start;
  run_form(form, &actual);
  unsigned rounds = form->rounds != 0 ? form->rounds : 1;
  unsigned operands = form->rdi_bad || form->rsi_bad ? 2 : 1;
  set_bad(pages, PROT_READ);

  char detail[200];
  const char *what = !quiet ? "the page of zeroes faulted" : difference(&expected, &actual);
  if (what == NULL && memcmp(expected_dest, dest, sizeof dest) != 0) {
    what = "something else was copied";
  }
  if (what == NULL && !all(pages, ARENA_PAGES * PAGE, 0)) {
    what = "the memory was written";
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
      if (size == 1 || form->rdi_bad || form->rsi_bad) {
        continue;
      }
      check_redirected(form, bad + PAGE - 1, flags);    /* the first byte is on the bad page */
      check_redirected(form, bad - size + 1, flags);    /* the last one is */
    }
  }
  if (skipped != 0) {
    printf("%u kinds of accesses skipped, which this processor does not have\n", skipped);
  }
}

/* --- what forms cannot show --- */

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

/* Runs one rep movs, or rep stos if `from` is NULL, and checks that it did what it says, with this many redirects and steps. */
static void check_rounds(const char *code, unsigned size, const uint8_t *from, uint8_t *to, uint64_t rounds, unsigned redirects,
                         unsigned ends, const char *sentence) {
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
  check(seen.redirected == redirects && seen.ended == ends && seen.refused == 0 && seen.foreign == 0 && step.count == 0, sentence, detail);
  bool moved = cpu.gpr[RSI] == start.gpr[RSI] + (from != NULL ? rounds * size : 0) &&
        cpu.gpr[RDI] == start.gpr[RDI] + rounds * size && cpu.gpr[RCX] == 0;
  bool kept = cpu.gpr[RAX] == start.gpr[RAX] && ((cpu.flags ^ start.flags) & (ARITHMETIC | DF | TF)) == 0;
  check(moved && kept, sentence, "the registers are wrong");
}

static void check_copy(const char *code, unsigned size, const uint8_t *from, uint8_t *to, uint64_t rounds, unsigned redirects,
                       const char *sentence) {
  check_rounds(code, size, from, to, rounds, redirects, redirects, sentence);
}

static void test_fills(void) {
  set_arena(0x11);
  check_copy(code_repstosb, 1, NULL, arena, 3 * PAGE, 1, "a fill across a bad page is redirected once");
  check(bad_hold(0x11), "a fill leaves a bad page alone", NULL);
  check(!all(arena, 1, 0x11) && all(arena, PAGE, arena[0]) && all(arena + 2 * PAGE, PAGE, arena[0]) && all(arena + 4 * PAGE, PAGE, 0x11),
        "a fill across a bad page fills the good ones", NULL);

  set_arena(0x11);
  check_copy(code_repstosq, 8, NULL, arena + 3, 3 * PAGE / 8 - 1, 2,
        "a fill of words that straddle is redirected for the page and the last word");
  check(bad_hold(0x11), "a fill of words that straddle leaves a bad page alone", NULL);
  check(all(arena + PAGE - 5, 5, 0x11) && !all(arena + PAGE - 13, 8, 0x11) && all(arena + 2 * PAGE, 3, 0x11) &&
        !all(arena + 2 * PAGE + 3, 8, 0x11),
        "a fill loses no more than one word beside the bad page", NULL);

  set_arena(0x11);
  must(mprotect(arena + 2 * PAGE, PAGE, PROT_NONE) == 0, "mprotect");
  check_copy(code_repstosl, 4, NULL, arena + PAGE + 12, 3 * PAGE / 4 - 3, 3, "a fill of three bad pages is redirected three times");
  must(mprotect(arena + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
  check(bad_hold(0x11) && all(arena, ARENA_PAGES * PAGE, 0x11), "a fill of three bad pages is thrown away", NULL);
}

static void test_copies_to_bad_pages(void) {
  uint8_t *from = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(from != MAP_FAILED, "mmap");
  memset(from, 0x77, 4 * PAGE);
  set_arena(0x11);
  check_copy(code_repmovsb, 1, from, arena + 5, 3 * PAGE - 5, 1, "a copy to a bad page is redirected once");
  check(bad_hold(0x11) && all(arena + 5, PAGE - 5, 0x77) && all(arena + 2 * PAGE, PAGE, 0x77),
        "a copy across a bad page writes the good ones", NULL);

  set_arena(0x11);
  must(mprotect(from + PAGE, PAGE, PROT_NONE) == 0, "mprotect");
  seen.served = from + PAGE;
  check_copy(code_repmovsw, 2, from + PAGE - 100, arena + PAGE, PAGE / 2, 1,
        "a copy to a bad page goes on when its source had to be served");
  check(seen.served_times == 1 && bad_hold(0x11), "the source was served once", NULL);
  seen.served = NULL;

  /* The source leaves its bad page 100 bytes before the destination leaves its own. */
  set_arena(0x11);
  memset(arena + 2 * PAGE, 0x22, PAGE);
  check_rounds(code_repmovsb, 1, arena + PAGE + 100, arena + 3 * PAGE - 200, PAGE + 300, 3, 2,
        "a copy from one bad page to another is redirected for both");
  check(bad_hold(0x11), "a copy from one bad page to another leaves both alone", NULL);
  check(all(arena + 2 * PAGE, PAGE - 200, 0x22) && all(arena + 3 * PAGE - 200, 200, 0),
        "a copy from one bad page to another writes zeroes before it", NULL);
  check(all(arena + 4 * PAGE, 100, 0x22) && all(arena + 4 * PAGE + 100, PAGE - 100, 0x11), "and what is there behind it", NULL);
  munmap(from, 4 * PAGE);
  set_bad(arena, PROT_READ | PROT_WRITE);
  memset(arena, 0, ARENA_PAGES * PAGE);
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

/* The refusals again, as read and as write faults, so that the bits that tell writes and fetches apart do not help. */
static void test_refusals_as_both(void) {
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
    check(refuses(&state, &uc, target, zeroes, PF_STEP_AREA_MIN), form->sentence, "as a read fault it was redirected");
    as_write(&uc);
    check(refuses(&state, &uc, target, zeroes, PF_STEP_AREA_MIN), form->sentence, "as a write fault it was redirected");
  }
}

/* Bytes at which rax, rbx, rbp and rsi hold the address that faults, and all other registers 0. */
static void test_bytes(void) {
  enum { NEVER, LOAD, STORE, MODIFY };
  static const struct {
    const char *sentence;
    uint8_t bytes[12];
    int access;
  } rows[] = {
    {"a plain load", {0x48, 0x8b, 0x08}, LOAD},
    {"a plain store", {0x48, 0x89, 0x08}, STORE},
    {"a move between registers", {0x48, 0x8b, 0xc8}, NEVER},
    {"rbp without a displacement means RIP, a load", {0x48, 0x8b, 0x0d, 0, 0, 0, 0}, NEVER},
    {"rbp without a displacement means RIP, a store", {0x48, 0x89, 0x0d, 0, 0, 0, 0}, NEVER},
    {"a sib byte without a base is not rbp", {0x48, 0x8b, 0x0c, 0x25, 0, 0, 0, 0}, NEVER},
    {"a locked load", {0xf0, 0x48, 0x8b, 0x08}, NEVER},
    {"a locked store", {0xf0, 0x48, 0x89, 0x08}, NEVER},
    {"a locked add", {0xf0, 0x48, 0x01, 0x08}, MODIFY},
    {"a locked vex store", {0xf0, 0xc5, 0xfe, 0x7f, 0x08}, NEVER},
    {"a locked movsb", {0xf0, 0xa4}, NEVER},
    {"an add of a constant to memory", {0x80, 0x00, 0x01}, MODIFY},
    {"a cmp with a constant", {0x80, 0x38, 0x01}, LOAD},
    {"mov of a constant", {0xc6, 0x00, 0x01}, STORE},
    {"mov of a constant with another number", {0xc6, 0x08, 0x01}, NEVER},
    {"an xrelease store", {0xf3, 0x88, 0x08}, STORE},
    {"btr", {0x0f, 0xba, 0x30, 0x01}, MODIFY},
    {"a bit test with another number", {0x0f, 0xba, 0x18, 0x01}, NEVER},
    {"bts with a register", {0x0f, 0xab, 0x08}, NEVER},
    {"not", {0xf7, 0x10}, MODIFY},
    {"test with a constant", {0xf6, 0x00, 0x01}, LOAD},
    {"div", {0xf7, 0x30}, NEVER},
    {"a shift by its undocumented number", {0xc1, 0x30, 0x03}, NEVER},
    {"inc", {0xff, 0x00}, MODIFY},
    {"call through memory", {0xff, 0x10}, NEVER},
    {"push of memory", {0xff, 0x30}, LOAD},
    {"push of a register", {0x50}, NEVER},
    {"call", {0xe8, 0, 0, 0, 0}, NEVER},
    {"enter", {0xc8, 0x10, 0, 0}, NEVER},
    {"pop to memory", {0x8f, 0x00}, NEVER},
    {"lodsb", {0xac}, LOAD},
    {"scasb, which is not at rsi", {0xae}, NEVER},
    {"cmpsb", {0xa6}, LOAD},
    {"stosb, which is not at rsi", {0xaa}, NEVER},
    {"movsb, which only reads at rsi", {0xa4}, LOAD},
    {"xlat", {0xd7}, NEVER},
    {"insb", {0x6c}, NEVER},
    {"outsb", {0x6e}, NEVER},
    {"movbe to memory", {0x0f, 0x38, 0xf1, 0x08}, STORE},
    {"crc32", {0xf2, 0x0f, 0x38, 0xf1, 0x08}, LOAD},
    {"wrss", {0x0f, 0x38, 0xf6, 0x08}, NEVER},
    {"movdiri", {0x0f, 0x38, 0xf9, 0x08}, NEVER},
    {"movdir64b", {0x66, 0x0f, 0x38, 0xf8, 0x08}, NEVER},
    {"movd to memory", {0x66, 0x0f, 0x7e, 0x08}, STORE},
    {"movq from memory", {0xf3, 0x0f, 0x7e, 0x08}, LOAD},
    {"fst", {0xd9, 0x10}, STORE},
    {"fld", {0xd9, 0x00}, LOAD},
    {"fnstcw", {0xd9, 0x38}, NEVER},
    {"fnstsw", {0xdd, 0x38}, NEVER},
    {"frstor", {0xdd, 0x20}, NEVER},
    {"fnsave", {0xdd, 0x30}, NEVER},
    {"fbstp", {0xdf, 0x30}, STORE},
    {"fisttp", {0xdb, 0x08}, STORE},
    {"xrstor", {0x0f, 0xae, 0x28}, NEVER},
    {"fxsave", {0x0f, 0xae, 0x00}, NEVER},
    {"stmxcsr", {0x0f, 0xae, 0x18}, NEVER},
    {"clflush", {0x0f, 0xae, 0x38}, NEVER},
    {"lss", {0x0f, 0xb2, 0x08}, NEVER},
    {"cmpxchg with its address in rax", {0x0f, 0xb1, 0x08}, NEVER},
    {"cmpxchg", {0x0f, 0xb1, 0x0b}, MODIFY},
    {"cmpxchg8b", {0x0f, 0xc7, 0x0b}, MODIFY},
    {"what shares its opcode", {0x0f, 0xc7, 0x33}, NEVER},
    {"movnti", {0x0f, 0xc3, 0x08}, STORE},
    {"setz", {0x0f, 0x94, 0x00}, STORE},
    {"sgdt", {0x0f, 0x01, 0x00}, NEVER},
    {"lea", {0x48, 0x8d, 0x08}, NEVER},
    {"mov of a segment register", {0x8c, 0x18}, NEVER},
    {"maskmovdqu", {0x66, 0x0f, 0xf7, 0xca}, NEVER},
    {"a load with a rex2 prefix", {0xd5, 0x08, 0x8b, 0x08}, NEVER},
    {"an xop instruction", {0x8f, 0xe8, 0x78, 0xc0, 0x08, 0x01}, NEVER},
    {"a vex prefix after 66", {0x66, 0xc5, 0xfe, 0x6f, 0x08}, NEVER},
    {"a vex load", {0xc5, 0xfe, 0x6f, 0x08}, LOAD},
    {"a vex store", {0xc5, 0xfe, 0x7f, 0x08}, STORE},
    {"a vex map that is not known", {0xc4, 0xe4, 0x7e, 0x6f, 0x08}, NEVER},
    {"a vex prefix with a map of evex", {0xc4, 0xe5, 0x7e, 0x10, 0x08}, NEVER},
    {"blsi into rsp", {0xc4, 0xe2, 0xd8, 0xf3, 0x18}, NEVER},
    {"cvttsd2si into rsp", {0xf2, 0x48, 0x0f, 0x2c, 0x23}, NEVER},
    {"vmaskmov to memory", {0xc4, 0xe2, 0x75, 0x2e, 0x08}, STORE},
    {"vpgatherdd", {0xc4, 0xe2, 0x75, 0x90, 0x08}, NEVER},
    {"cmpccxadd", {0xc4, 0xe2, 0xf1, 0xe0, 0x08}, NEVER},
    {"tileloadd", {0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x20}, NEVER},
    {"tilestored", {0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x20}, NEVER},
    {"bzhi into rsp", {0xc4, 0xe2, 0xf0, 0xf5, 0x20}, NEVER},
    {"an evex load", {0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x08}, LOAD},
    {"an evex store", {0x62, 0xf1, 0xfe, 0x48, 0x7f, 0x08}, STORE},
    {"an evex load with a base of apx", {0x62, 0xf9, 0xfe, 0x48, 0x6f, 0x08}, NEVER},
    {"an evex store with an index of apx", {0x62, 0xf1, 0xfa, 0x48, 0x7f, 0x08}, NEVER},
    {"an evex load of map 4", {0x62, 0xf4, 0xfe, 0x48, 0x6f, 0x08}, NEVER},
    {"an evex store that narrows", {0x62, 0xf2, 0x7e, 0x48, 0x31, 0x08}, STORE},
    {"an evex load that widens", {0x62, 0xf2, 0x7d, 0x48, 0x31, 0x08}, LOAD},
    {"an evex scatter", {0x62, 0xf2, 0x7d, 0x49, 0xa0, 0x0c, 0x08}, NEVER},
    {"an evex compression", {0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x08}, NEVER},
    {"an evex load of a half float", {0x62, 0xf5, 0x7e, 0x08, 0x10, 0x08}, LOAD},
    {"an evex store of a half float", {0x62, 0xf5, 0x7e, 0x08, 0x11, 0x08}, STORE},
  };
  uint64_t address = 0x700000001280;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    for (int write = 0; write < 2; write++) {
      ucontext_t uc;
      pf_step_t state;
      memset(&state, 0, sizeof state);
      fake(&uc, rows[i].bytes);
      if (write) {
        as_write(&uc);
      }
      static const int holders[] = {REG_RAX, REG_RBX, REG_RBP, REG_RSI};
      for (size_t j = 0; j < 4; j++) {
        uc.uc_mcontext.gregs[holders[j]] = (greg_t)address;
      }
      bool goes_on = rows[i].access == MODIFY || rows[i].access == (write ? STORE : LOAD);
      bool ok = goes_on ? redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0
                        : refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN);
      const char *what = goes_on ? "refused as a read" : "redirected as a read";
      if (write) {
        what = goes_on ? "refused as a write" : "redirected as a write";
      }
      check(ok, rows[i].sentence, what);
    }
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
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "the destination of movsb is refused as a read", NULL);

  fake(&uc, cmpsb);
  uc.uc_mcontext.gregs[REG_RSI] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_RDI] = (greg_t)address + 0x3000;
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address + 0x3000;
  ucontext_t before = uc;
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "the first operand of cmpsb is redirected", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TF;
  check(refuses(&state, &lost, address + 0x3000, zeroes, PF_STEP_AREA_MIN),
        "the second operand is refused when the trap flag got lost", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)other_load;
  check(refuses(&state, &lost, address + 0x3000, zeroes, PF_STEP_AREA_MIN),
        "another stepped instruction is not taken for the second operand", NULL);
  check(!pf_step_cancel(&state, &lost), "a redirect is not taken back at another instruction", NULL);
  lost = uc;
  lost.uc_mcontext.gregs[REG_RSI]++;
  check(!pf_step_cancel(&state, &lost), "a redirect is not taken back when its register has moved", NULL);

  check(redirect(&state, &uc, address + 0x3000, zeroes, PF_STEP_AREA_MIN) == 0 && state.count == 2,
        "the second operand of cmpsb is redirected", NULL);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "there is no third operand", NULL);
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
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "rep movsb is redirected", NULL);
  check((uc.uc_mcontext.gregs[REG_EFL] & TF) == 0 && uc.uc_mcontext.gregs[REG_RIP] != before.uc_mcontext.gregs[REG_RIP], "a copy runs elsewhere without the trap flag", NULL);
  check(uc.uc_mcontext.gregs[REG_RCX] == 128, "a copy ends with the page", NULL);
  check(refuses(&state, &uc, 0x10000, zeroes, PF_STEP_AREA_MIN), "the destination of a copy is refused as a read", NULL);

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
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0 && uc.uc_mcontext.gregs[REG_RIP] == (greg_t)(uintptr_t)code &&
          pf_step_cancel(&state, &uc),
        "a program that is stepped already is stepped through rep movsb", NULL);

  /* Little room behind the place: the copy must not read behind the area. */
  for (unsigned offset = 1; offset <= PAGE; offset += 63) {
    fake(&uc, code);
    uc.uc_mcontext.gregs[REG_RSI] = (greg_t)(0x700000001000 + offset % PAGE);
    uc.uc_mcontext.gregs[REG_RCX] = 100000;
    size_t len = PAGE + 127;
    bool ok = redirect(&state, &uc, (uint64_t)uc.uc_mcontext.gregs[REG_RSI], zeroes, len) == 0;
    uint64_t last = (uint64_t)(uc.uc_mcontext.gregs[REG_RSI] + uc.uc_mcontext.gregs[REG_RCX]);
    check(ok && uc.uc_mcontext.gregs[REG_RCX] > 0 && last <= (uintptr_t)zeroes + len, "a copy stays in the zeroes", NULL);
    check(pf_step_cancel(&state, &uc), "a copy can be taken back", NULL);
  }
}

/* The same with a copy to the page, into whose middle a fault of its source comes. */
static void test_copy_contexts_of_both(void) {
  static const uint8_t code[] = {0xf3, 0xa4};
  uint64_t to = 0x700000001f80, from = 0x700000003fb0;
  ucontext_t uc;
  pf_step_t state;
  memset(&state, 0, sizeof state);
  fake(&uc, code);
  as_write(&uc);
  uc.uc_mcontext.gregs[REG_RSI] = (greg_t)from - 10;
  uc.uc_mcontext.gregs[REG_RDI] = (greg_t)to;
  uc.uc_mcontext.gregs[REG_RCX] = 1000;
  ucontext_t before = uc;
  check(redirect(&state, &uc, to, zeroes, PF_STEP_AREA_MIN) == 0, "rep movsb to the page is redirected", NULL);
  check((uint64_t)uc.uc_mcontext.gregs[REG_RDI] - (uintptr_t)sink < PF_STEP_AREA_MIN &&
        uc.uc_mcontext.gregs[REG_RSI] == before.uc_mcontext.gregs[REG_RSI],
        "it copies to the sink", NULL);
  check(uc.uc_mcontext.gregs[REG_RCX] == 128, "a copy ends with the page of its destination", NULL);
  check(refuses(&state, &uc, (uintptr_t)uc.uc_mcontext.gregs[REG_RDI], zeroes, PF_STEP_AREA_MIN), "a fault in the sink is refused", NULL);

  uc.uc_mcontext.gregs[REG_RSI] += 10;
  uc.uc_mcontext.gregs[REG_RDI] += 10;
  uc.uc_mcontext.gregs[REG_RCX] -= 10;
  check(refuses(&state, &uc, from, zeroes, PF_STEP_AREA_MIN), "its source is refused when the fault was a write", NULL);
  ucontext_t lost = uc;
  lost.uc_mcontext.gregs[REG_ERR] = 4;
  lost.uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)code;
  lost.uc_mcontext.gregs[REG_EFL] |= TF;
  check(refuses(&state, &lost, from, zeroes, PF_STEP_AREA_MIN), "its source is refused outside of the copy", NULL);
  uc.uc_mcontext.gregs[REG_ERR] = 4;
  check(redirect(&state, &uc, from, zeroes, PF_STEP_AREA_MIN) == 0 && state.count == 2, "its source is redirected as well", NULL);
  check((uint64_t)uc.uc_mcontext.gregs[REG_RSI] - (uintptr_t)zeroes < PF_STEP_AREA_MIN, "it copies from the zeroes", NULL);
  check(uc.uc_mcontext.gregs[REG_RCX] == 80 && (uc.uc_mcontext.gregs[REG_EFL] & TF) == 0, "a copy ends with the page of its source", NULL);
  check(refuses(&state, &uc, from, zeroes, PF_STEP_AREA_MIN), "a copy has no third operand", NULL);

  uc.uc_mcontext.gregs[REG_RSI] += 30;
  uc.uc_mcontext.gregs[REG_RDI] += 30;
  uc.uc_mcontext.gregs[REG_RCX] -= 30;
  check(pf_step_cancel(&state, &uc) && state.count == 0, "a copy between two bad pages can be taken back", NULL);
  ucontext_t expected = before;
  expected.uc_mcontext.gregs[REG_ERR] = 4;
  expected.uc_mcontext.gregs[REG_RSI] += 40;
  expected.uc_mcontext.gregs[REG_RDI] += 40;
  expected.uc_mcontext.gregs[REG_RCX] -= 40;
  check(memcmp(&expected, &uc, sizeof uc) == 0, "and has then done the rounds it did", NULL);
}

/* What is in the sink, and what needs none. */
static void test_sink(void) {
  static const uint8_t store[] = {0x48, 0x89, 0x0b}, load[] = {0x48, 0x8b, 0x0b}, add[] = {0x48, 0x01, 0x0b}, own[] = {0x48, 0x01, 0x1b};
  static const uint8_t compare[] = {0xf0, 0x48, 0x0f, 0xc7, 0x4b, 0x10}; /* lock cmpxchg16b 16(%rbx) */
  uint64_t address = 0x700000001238;
  const uint64_t rax = 0x1122334455667788, rdx = 0x99aabbccddeeff01;
  ucontext_t uc;
  pf_step_t state;
  pf_step_areas_t without = {zeroes, PF_STEP_AREA_MIN, NULL, 0};
  const uint8_t *codes[] = {store, add, load};
  for (size_t i = 0; i < 3; i++) {
    memset(&state, 0, sizeof state);
    fake(&uc, codes[i]);
    uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address;
    uc.uc_mcontext.gregs[REG_ERR] = i < 2 ? 4 | 2 : 4;
    int result = pf_step_redirect(&state, &uc, address, &without);
    check(result == (i < 2 ? -ENOTSUP : 0), "without a sink loads are redirected and nothing else", NULL);
  }

  memset(sink, 0x5a, PF_STEP_AREA_MIN);
  memset(&state, 0, sizeof state);
  fake(&uc, own);
  as_write(&uc);
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) && all(sink, PF_STEP_AREA_MIN, 0x5a),
        "a refusal leaves the sink alone", NULL);
  fake(&uc, store);
  as_write(&uc);
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)(uintptr_t)sink + 64;
  check(refuses(&state, &uc, (uintptr_t)sink + 64, zeroes, PF_STEP_AREA_MIN), "a store that faults in the sink itself is refused", NULL);
  fake(&uc, add);
  as_write(&uc);
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address;
  check(redirect(&state, &uc, address + 5, zeroes, PF_STEP_AREA_MIN) == 0, "an add to memory is redirected", NULL);
  check(all((const uint8_t *)uc.uc_mcontext.gregs[REG_RBX], 8, 0), "what reads and writes finds zeroes in the sink", NULL);
  check(pf_step_cancel(&state, &uc), "an add to memory can be taken back", NULL);

  fake(&uc, compare);
  as_write(&uc);
  uc.uc_mcontext.gregs[REG_RBX] = (greg_t)address - 8;
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)rax;
  uc.uc_mcontext.gregs[REG_RDX] = (greg_t)rdx;
  check(redirect(&state, &uc, address + 8, zeroes, PF_STEP_AREA_MIN) == 0, "cmpxchg16b is redirected", NULL);
  const uint8_t *operand = (const uint8_t *)uc.uc_mcontext.gregs[REG_RBX] + 16;
  check(memcmp(operand, &rax, 8) == 0 && memcmp(operand + 8, &rdx, 8) == 0, "cmpxchg16b finds rax and rdx in the sink", NULL);
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
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "an evex load below its base is redirected", NULL);
  uint64_t target = (uint64_t)uc.uc_mcontext.gregs[REG_RAX] - 0x2000;
  check(refuses(&state, &uc, target + 0x2000 - 0x80, zeroes, PF_STEP_AREA_MIN),
        "a register that is redirected is not redirected again", NULL);

  memset(&state, 0, sizeof state);
  fake(&uc, own);
  uc.uc_mcontext.gregs[REG_RCX] = (greg_t)target;
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)(address - target);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "a destination that would be redirected to 0 is refused", NULL);
  uc.uc_mcontext.gregs[REG_RCX]++;
  uc.uc_mcontext.gregs[REG_RAX]--;
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "and one that would not be is redirected", NULL);
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
    int result = redirect(&state, &uc, address + (uint64_t)(int64_t)distance, zeroes, PF_STEP_AREA_MIN);
    check(result == (inside ? 0 : -ENOTSUP), "an address is accepted up to 63 bytes into the operand and nowhere else", NULL);
    if (result != 0) {
      continue;
    }
    uint64_t start = (uint64_t)uc.uc_mcontext.gregs[REG_RAX] - (uintptr_t)zeroes;
    check(start + 64 <= PF_STEP_AREA_MIN, "the whole operand lies in the zeroes", NULL);
    check(start % PAGE == address % PAGE, "the operand lies as it did in its page", NULL);
  }

  for (unsigned at = 0; at < PAGE; at += 7) {
    for (unsigned shift = 0; shift < 64; shift += 21) {
      memset(&state, 0, sizeof state);
      fake(&uc, load);
      uint64_t here = 0x700000001000 + at;
      uc.uc_mcontext.gregs[REG_RAX] = (greg_t)here;
      size_t len = PAGE + 64 + 127;
      bool ok = redirect(&state, &uc, here, zeroes + shift, len) == 0;
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
  check(refuses(&state, &uc, (uintptr_t)zeroes + 64, zeroes, PF_STEP_AREA_MIN), "a fault in the area itself is refused", NULL);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  uc.uc_mcontext.gregs[REG_ERR] = 4 | 2;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "a load that faulted as a write is refused", NULL);
  uc.uc_mcontext.gregs[REG_ERR] = 4 | 16;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "a fetch fault is refused", NULL);
  fake(&uc, load);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)(uintptr_t)load;
  check(refuses(&state, &uc, (uintptr_t)load, zeroes, PF_STEP_AREA_MIN), "a fault at the instruction itself is refused", NULL);
  fake(&uc, flood);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "more than 15 bytes are no instruction", NULL);

  /* Round trip of the parts of the context that are changed. */
  fake(&uc, load);
  uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  ucontext_t before = uc;
  check(!pf_step_finish(&state, &uc) && !pf_step_cancel(&state, &uc), "without a redirect there is none to end", NULL);
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "a load is redirected", NULL);
  check((uc.uc_mcontext.gregs[REG_EFL] & TF) != 0, "the trap flag is set", NULL);
  check(sigismember(&uc.uc_sigmask, SIGALRM) == 1 && sigismember(&uc.uc_sigmask, SIGPROF) == 1, "signals that can wait are blocked meanwhile", NULL);
  check(sigismember(&uc.uc_sigmask, SIGTRAP) == 0 && sigismember(&uc.uc_sigmask, SIGSEGV) == 0 && sigismember(&uc.uc_sigmask, SIGBUS) == 0,
        "signals that the load can raise are not", NULL);
  check(memcmp((char *)&uc.uc_sigmask + 8, (char *)&before.uc_sigmask + 8, sizeof uc.uc_sigmask - 8) == 0,
        "nothing is written behind the 64 bits of the kernel's signal mask", NULL);
  check(refuses(&state, &uc, address, zeroes, PF_STEP_AREA_MIN), "the same operand is not redirected twice", NULL);

  pf_step_t open_state = state;
  ucontext_t other_uc;
  fake(&other_uc, load + 1);
  other_uc.uc_mcontext.gregs[REG_RAX] = (greg_t)address;
  check(refuses(&state, &other_uc, address, zeroes, PF_STEP_AREA_MIN), "another instruction is refused while one is redirected", NULL);
  check(!pf_step_cancel(&state, &other_uc) && !pf_step_finish(&state, &other_uc), "another context does not end a redirect", NULL);

  check(pf_step_cancel(&state, &uc) && state.count == 0, "a redirect can be taken back", NULL);
  check(memcmp(&before, &uc, sizeof uc) == 0, "and leaves the context as it was", NULL);

  state = open_state;
  check(redirect(&open_state, &uc, address, zeroes, PF_STEP_AREA_MIN) == -ENOTSUP,
        "a redirect whose context got lost is not continued", NULL);
  memset(&state, 0, sizeof state);
  check(redirect(&state, &uc, address, zeroes, PF_STEP_AREA_MIN) == 0, "a load is redirected again", NULL);
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

int main(void) {
  prepare();
  test_forms();
  test_straddling_over_data();
  test_copies();
  test_copies_to_bad_pages();
  test_fills();
  test_copy_contexts();
  test_stepping_already();
  test_refusals_as_both();
  test_bytes();
  test_second_operand();
  test_copy_contexts_of_both();
  test_sink();
  test_ambiguous_registers();
  test_contexts();
  test_other_signals();
  return finish();
}

#endif
