/* sanitizers: address,none */
/*
 * How a process with regions crashes: at its own instruction, as itself although other threads fault, with the segment named that is nearest. Each scenario is
 * a process of its own, this program run again.
 */
#include "deaths.h"
#include "scenarios.h"

static void tell(const char *what, uintptr_t value) { fprintf(stderr, "%s=%#llx\n", what, (unsigned long long)value); }

#if defined(__x86_64__)
uint8_t known_load(const void *addr);
extern const char known_instruction[];
__asm__(".text\nknown_load:\nknown_instruction:\n  movb (%rdi), %al\n  ret\n");
static void tell_instruction(void) { tell("instruction", (uintptr_t)known_instruction); }
#else
#define known_load(addr) touch_address(addr)
static void tell_instruction(void) {}
#endif

static pf_region_t *known_region(pf_backend_t backend, const char *name) {
  return open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.name = name));
}

static int crash_at(const uint8_t *addr) {
  tell("addr", (uintptr_t)addr);
  tell_instruction();
  known_load(addr);
  return 2;
}

/* --- near a segment ---------------------------------------------------------------------------------------------------------- */

static int behind(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = known_region(backend, "books");
  return crash_at(region->base + region->length + 100);
}

static int before(pf_backend_t backend) {
  default_handlers();
  uint8_t *memory = mmap(NULL, 17 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(memory, PAGE, PROT_NONE);
  pf_region_options_t options = OPTIONS(.name = "books", .into = memory + PAGE, .into_length = 16 * PAGE);
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, options);
  return crash_at(region->base - 3);
}

static int inside(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = known_region(backend, "books");
  munmap(region->base + 3 * PAGE, PAGE);
  return crash_at(region->base + 3 * PAGE + 5);
}

static int jump(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = known_region(backend, "books");
  touch(region, 0);
  void (*code)(void);
  memcpy(&code, &region->base, sizeof code);
  code();
  return 2;
}

/* A thread that starts just now may be given the addresses that were freed: they are to be nobody's. */
static bool is_kept_free(uint8_t *page) {
  return mmap(page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == page;
}

static int closed(pf_backend_t backend) {
  uint8_t *addr;
  default_handlers();
  touch(known_region(backend, "other"), 0);
  do {
    pf_region_t *region = known_region(backend, "books");
    addr = region->base + 5 * PAGE;
    EXPECT(close_region(region));
  } while (!is_kept_free(addr));
  return crash_at(addr + 1);
}

static int far(pf_backend_t backend) {
  default_handlers();
  known_region(backend, "books");
  return crash_at((uint8_t *)(uintptr_t)12345);
}

/* --- as itself ------------------------------------------------------------------------------------------------------------------ */

static pf_region_t *busy;

/* Faults all the time. */
static void *keep_faulting(void *data) {
  for (uint64_t page = (uint64_t)(uintptr_t)data;; page = (page + 1) % 16) {
    touch(busy, page * PAGE);
    pf_region_release(busy, page, page + 1);
  }
  return NULL;
}

static void start_faulting(pf_backend_t backend) {
  busy = known_region(backend, "busy");
  for (uintptr_t i = 0; i < 4; i++) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, keep_faulting, (void *)(i * 4)) == 0, "a thread");
  }
  pf_sleep_until(pf_now_ns() + 20 * MS);
}

static int among_faults(pf_backend_t backend) {
  default_handlers();
  start_faulting(backend);
  return crash_at((uint8_t *)(uintptr_t)12345);
}

/* As Node does with what is not WebAssembly's. */
static void give_up(int number, siginfo_t *info, void *context) {
  (void)info, (void)context;
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(number, &standard, NULL);
  raise(number);
}

static void install_crash_handler(void (*handler)(int, siginfo_t *, void *)) {
  default_handlers();
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigfillset(&action.sa_mask);
  sigaction(SIGSEGV, &action, NULL);
}

static int given_up(pf_backend_t backend) {
  install_crash_handler(give_up);
  start_faulting(backend);
  return crash_at((uint8_t *)(uintptr_t)12345);
}

/* The kernel tells of broken memory that nobody has touched: no instruction would fault again. */
static int broken_memory(pf_backend_t backend) {
  default_handlers();
  known_region(backend, "books");
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = SIGBUS;
  info.si_code = BUS_MCEERR_AO;
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info);
  return 2;
}

static uint8_t *opened;

/* Gives up, but the instruction will not fault again. */
static void give_up_and_open(int number, siginfo_t *info, void *context) {
  give_up(SIGSEGV, info, context);
  EXPECT_EQ(number, SIGSEGV);
  mprotect(opened, PAGE, PROT_READ);
}

static bool handler_is_back(void *data) {
  (void)data;
  struct sigaction now;
  sigaction(SIGSEGV, NULL, &now);
  return (now.sa_flags & SA_SIGINFO) != 0;
}

static _Atomic int look_now, has_looked;

/* As the guard does. */
static void *look_when_told(void *unused) {
  (void)unused;
  while (!atomic_load(&look_now)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
  EXPECT_EQ(pf_signal_check(), 0);
  atomic_store(&has_looked, 1);
  return NULL;
}

/* The same, and the handlers are looked after at this moment. */
static void give_up_and_look(int number, siginfo_t *info, void *context) {
  give_up_and_open(number, info, context);
  atomic_store(&look_now, 1);
  while (!atomic_load(&has_looked)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
}

static int survive(pf_backend_t backend, void (*handler)(int, siginfo_t *, void *)) {
  install_crash_handler(handler);
  pf_region_t *region = known_region(backend, "books");
  opened = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_EQ(touch_address(opened), 0);
  EXPECT(wait_until(handler_is_back, NULL, 15000));
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  return result();
}

static int survived(pf_backend_t backend) { return survive(backend, give_up_and_open); }

static int survived_a_look(pf_backend_t backend) {
  pthread_t thread;
  must(pthread_create(&thread, NULL, look_when_told, NULL) == 0, "a thread");
  return survive(backend, give_up_and_look);
}

/* --- running them ------------------------------------------------------------------------------------------------------------------ */

static const scenario_t scenarios[] = {
    {"behind", behind}, {"before", before}, {"inside", inside}, {"jump", jump}, {"closed", closed}, {"far", far},
    {"among faults", among_faults}, {"given up", given_up}, {"broken memory", broken_memory}, {"survived", survived}, {"survived a look", survived_a_look},
};

static void expect_named(pf_backend_t backend, const char *name, const char *where, const char *what) {
  ended_t ended;
  run_child(name, backend, &ended);
  EXPECT_SIGNAL(&ended, SIGSEGV);
  EXPECT_TEXT(&ended, "segment: books\n");
  EXPECT_TEXT(&ended, where);
  EXPECT_TEXT(&ended, what);
}

static void test_behind(pf_backend_t backend) { expect_named(backend, "behind", "where:   100 bytes behind its end\n", ", a read by"); }
static void test_before(pf_backend_t backend) { expect_named(backend, "before", "where:   3 bytes before its start\n", ", a read by"); }
static void test_inside(pf_backend_t backend) { expect_named(backend, "inside", "where:   inside, at offset 12293\n", "somebody has changed"); }
static void test_jump(pf_backend_t backend) { expect_named(backend, "jump", "where:   inside, at offset 0\n", ", a jump by"); }
static void test_closed(pf_backend_t backend) { expect_named(backend, "closed", "where:   inside, at offset 20481, which was closed", "no use after close()"); }

static void test_far(pf_backend_t backend) {
  ended_t ended;
  run_child("far", backend, &ended);
  EXPECT_SIGNAL(&ended, SIGSEGV);
  EXPECT(strstr(ended.text, "pagefault:") == NULL);
}

/* In most of some rounds. */
static bool is_mostly_original(const char *name, pf_backend_t backend) {
  int original = 0, rounds = SLOW ? 3 : 5;
  for (int round = 0; round < rounds; round++) {
    death_t death;
    watch_death(name, backend, &death);
    if (!death.traced) {
      return true; /* ptrace is not allowed here */
    }
    EXPECT_SIGNAL(&death.ended, SIGSEGV);
    EXPECT(death.stops[0].addr == told(&death, "addr"));
    original += death.count == 2 && death.stops[1].addr == death.stops[0].addr && death.stops[1].instruction == death.stops[0].instruction &&
                death.stops[1].code > 0;
  }
  return original > rounds / 2;
}

/* A thread that was off its CPU while the others came to a stop may still be the one that ends the process: seldom, and on a machine that is very busy. */
static void expect_mostly_original(const char *name, pf_backend_t backend) {
  EXPECT(is_mostly_original(name, backend) || is_mostly_original(name, backend) || is_mostly_original(name, backend));
}

static void test_among_faults(pf_backend_t backend) { expect_mostly_original("among faults", backend); }
static void test_given_up(pf_backend_t backend) { expect_mostly_original("given up", backend); }

static void test_broken_memory(pf_backend_t backend) {
  ended_t ended;
  run_child("broken memory", backend, &ended);
  EXPECT_SIGNAL(&ended, SIGBUS);
}

WELL(test_survived, "survived")
WELL(test_survived_a_look, "survived a look")

/* --- what a core has --------------------------------------------------------------------------------------------------------------- */

/* 1: left out of a core, 0: not, -1: not found. */
static int left_out(const void *addr) {
  FILE *file = fopen("/proc/self/smaps", "re");
  char line[512];
  int found = -1;
  for (bool here = false; found < 0 && fgets(line, sizeof line, file) != NULL;) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      here = start <= (uintptr_t)addr && (uintptr_t)addr < end;
    } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
      found = strstr(line, " dd") != NULL;
    }
  }
  fclose(file);
  return found;
}

static void test_dumped(pf_backend_t backend) {
  size_t big = PF_MEM_DUMP_MAX + PAGE;
  pf_region_t *small = known_region(backend, "small"), *large = open_region(backend, zero_source(), big, OPTIONS());
  touch(small, PAGE);
  touch(large, PAGE);
  bool object = backend == PF_BACKEND_MPROTECT || backend == PF_BACKEND_MEMFD;
  EXPECT_EQ(left_out(small->base + PAGE), object);
  EXPECT_EQ(left_out(large->base + PAGE), 1);
  if (object) {
    EXPECT_EQ(left_out(small->ours + PAGE), 1);
  }
  EXPECT(close_region(small));
  EXPECT(close_region(large));
}

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_each("a crash in the page behind a segment names it", test_behind);
  test_each("a crash before a segment names it", test_before);
  test_each("a crash where somebody has unmapped a part of a segment names it", test_inside);
  test_each("a jump into a segment names it", test_jump);
  test_each("a crash where a segment was names it", test_closed);
  test_each("a crash far from every segment names none", test_far);
  test_each("a thread that crashes while others fault is the one that ends the process", test_among_faults);
  test_each("so it is when the handler that was there before gives up and raises the signal, and the fault keeps its address", test_given_up);
  test_each("a SIGBUS that no instruction has caused ends the process", test_broken_memory);
  test_each("a process that does not end after all has its handlers back", test_survived);
  test_each("and when they are put back in the middle of it", test_survived_a_look);
  test_each("memory objects and large segments are left out of cores", test_dumped);
  return summary();
}
