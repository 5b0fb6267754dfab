/* sanitizers: address,none */
/*
 * Every system call of the fault path fails, once or at random, with each errno that it can have. Then each page is right or failed with a
 * reason; it heals; nothing hangs and nothing is left behind. The calls are this program's own symbols, which go before the C library's.
 * Not under ThreadSanitizer: it must see the real mmap and munmap.
 */
#include "inject.h"
#include "players.h"

/* --- which call fails ------------------------------------------------------------------------------------------------------- */

typedef enum { COPY, ZEROPAGE, MPROTECT, MADVISE, PROCESS_MADVISE, PREAD, FSTAT, MMAP, MINCORE, FUTEX, SLEEP, CALLS } call_t;

/* What each may plausibly say. */
static const injected_t injected_calls[CALLS] = {
    [COPY] = {"UFFDIO_COPY", {ENOMEM, EAGAIN, EEXIST, ESRCH, ENOENT}},
    [ZEROPAGE] = {"UFFDIO_ZEROPAGE", {ENOMEM, EAGAIN, EEXIST, ESRCH}},
    [MPROTECT] = {"mprotect", {ENOMEM, EACCES}},
    [MADVISE] = {"madvise", {EAGAIN, ENOMEM, EINTR, EINVAL}},
    [PROCESS_MADVISE] = {"process_madvise", {EINTR, EPERM, EAGAIN, EINVAL}},
    [PREAD] = {"pread", {EIO, EINTR, EAGAIN, ENOMEM}},
    [FSTAT] = {"fstat", {ENOMEM, EIO}},
    [MMAP] = {"mmap", {ENOMEM, EAGAIN}},
    [MINCORE] = {"mincore", {EAGAIN, ENOMEM}},
    [FUTEX] = {"futex", {EINTR, EAGAIN, ETIMEDOUT}},
    [SLEEP] = {"clock_nanosleep", {EINTR}},
};

int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  bool ours = (request >> 8 & 0xff) == 0xaa && ((request & 0xff) == 3 || (request & 0xff) == 4);
  int err = ours ? must_fail((request & 0xff) == 3 ? COPY : ZEROPAGE) : 0;
  return (int)(err != 0 ? fail(err) : syscall(SYS_ioctl, fd, request, argument));
}

int mprotect(void *addr, size_t len, int prot) {
  int err = must_fail(MPROTECT);
  return (int)(err != 0 ? fail(err) : syscall(SYS_mprotect, addr, len, prot));
}

int madvise(void *addr, size_t len, int advice) {
  int err = must_fail(MADVISE);
  return (int)(err != 0 ? fail(err) : syscall(SYS_madvise, addr, len, advice));
}

NOTHING_AT_ONCE
ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  int err = must_fail(PREAD);
  return err != 0 ? fail(err) : syscall(SYS_pread64, fd, into, len, offset);
}

int fstat(int fd, struct stat *out) {
  int err = must_fail(FSTAT);
  return (int)(err != 0 ? fail(err) : syscall(SYS_newfstatat, fd, "", out, 0x1000 /* AT_EMPTY_PATH */));
}

static void *real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset) {
  return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset) {
  int err = must_fail(MMAP);
  return err != 0 ? (void *)(intptr_t)fail(err) : real_mmap(addr, len, prot, flags, fd, offset);
}

int mincore(void *addr, size_t len, unsigned char *out) {
  int err = must_fail(MINCORE);
  return (int)(err != 0 ? fail(err) : syscall(SYS_mincore, addr, len, out));
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
  int err = must_fail(SLEEP);
  return err != 0 ? err : (int)(syscall(SYS_clock_nanosleep, clock, flags, time, left) == 0 ? 0 : errno);
}

/* syscall(2) itself: process_madvise and futex go through it. */
long syscall(long number, ...) {
  SYSCALL_ARGUMENTS(number, with);
  bool waits = number == SYS_futex && (with[1] & 0x7f) == FUTEX_WAIT_BITSET; /* waking cannot fail */
  int err = waits ? must_fail(FUTEX) : number == 440 ? must_fail(PROCESS_MADVISE) : 0;
  return err != 0 ? fail(err) : raw_syscall(number, with);
}

/* --- a scenario that makes every call --------------------------------------------------------------------------------------------- */

#define PAGES 96

typedef struct {
  pf_region_t *region;
  pf_budget_t *budget;
  uint64_t have; /* of the store; zeroes behind it */
  int denied;    /* loads that failed, each with a reason */
} stage_t;

static bool serve_pattern(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  return true;
}

static uint8_t expected_byte(const stage_t *stage, uint64_t offset) { return offset < stage->have ? pattern(offset) : 0; }

/* A raw touch that may fail: it may have to open the page again, while calls go on failing. */
static void touch_page(stage_t *stage, uint64_t offset) {
  pf_failure_t failure;
  EXPECT_EQ(pf_attempt_begin(), 0);
  uint8_t byte = touch(stage->region, offset);
  if (pf_attempt_end(&failure)) {
    stage->denied++;
    EXPECT(failure.why.code != PF_OK && failure.message[0] != '\0');
  } else {
    EXPECT_EQ(byte, expected_byte(stage, offset));
  }
}

/* A checked load, and what it gives if it gives anything. */
static void try_page(stage_t *stage, uint64_t page) {
  pf_why_t why = {0};
  if (pf_page_hold(stage->region, page) != 0) {
    stage->denied++;
    return;
  }
  if (ensure(stage->region, page, 60, true, &why)) {
    touch_page(stage, page * PAGE + page * 31 % PAGE);
  } else {
    stage->denied++;
    EXPECT(why.code == PF_E_STORE || why.code == PF_E_NO_MEMORY || why.code == PF_E_SYSTEM || why.code == PF_E_BUDGET ||
           why.code == PF_E_TIMEOUT);
  }
  pf_page_unhold(stage->region, page);
}

static void play(stage_t *stage, uint64_t seed, int steps) {
  for (int i = 0; i < steps; i++) {
    uint64_t page = random_next(&seed) % PAGES, count = 1 + random_next(&seed) % 12;
    uint64_t end = page + count < PAGES ? page + count : PAGES;
    switch (random_next(&seed) % 8) {
      case 0:
        pf_region_release(stage->region, page, end);
        break;
      case 1:
        pf_region_invalidate(stage->region, page, end);
        break;
      case 2:
        if (pf_pin_add(stage->region, page, end) == 0) {
          try_page(stage, page);
          pf_pin_remove(stage->region, page, end);
        }
        break;
      default:
        for (; page < end; page++) {
          try_page(stage, page);
        }
    }
  }
}

/* Pages that a pager brings ahead of any reader may be on their way still, on its thread: nobody has waited for them. */
static void let_settle(pf_region_t *region) {
  uint64_t deadline = pf_now_ns() + 10000 * MS;
  for (uint64_t page = 0; page < PAGES && pf_now_ns() < deadline;) {
    unsigned state = state_of(region, page);
    if (state == PF_LOADING || state == PF_INSTALLING || state == PF_EVICTING) {
      pf_sleep_until(pf_now_ns() + MS);
    } else {
      page++;
    }
  }
}

/* Afterwards, with every call working: all pages can be had and are right, and the numbers add up. */
static void expect_sound(stage_t *stage) {
  pf_region_t *region = stage->region;
  region->timeout_ns = 20000 * MS; /* a machine that is busy otherwise is not a fault */
  let_settle(region);
  uint64_t failed = 0, resident = 0, staged = 0;
  for (uint64_t page = 0; page < PAGES; page++) {
    unsigned state = state_of(region, page);
    EXPECT(state == PF_ABSENT || state == PF_PRESENT || state == PF_STAGED || state == PF_FAILED);
    failed += state == PF_FAILED;
    resident += state == PF_PRESENT;
    staged += state == PF_STAGED;
  }
  EXPECT_EQ(counter(&region->counters.failed_pages), failed);
  EXPECT_EQ(counter(&region->counters.resident), resident * PAGE);
  EXPECT_EQ(counter(&region->counters.staged), staged * PAGE);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  if (stage->budget != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(stage->budget, &numbers);
    EXPECT_EQ(numbers.used, (resident + staged) * PAGE);
    EXPECT_EQ(numbers.pinned, 0);
  }
  pf_region_invalidate(region, 0, PAGES);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, stage->have), PAGES * PAGE);
  EXPECT_EQ(counter(&region->counters.failed_pages), 0);
}

typedef enum { FROM_FILE, FROM_PAGER, KINDS } kind_t;

static char plan[PF_NAME_MAX] = "no plan"; /* the region's name, so that a report says what had failed */

static stage_t open_stage(pf_backend_t backend, kind_t kind, test_store_t *store) {
  stage_t stage = {.have = (PAGES - 8) * PAGE - 100};
  must(pf_budget_create(40 * PAGE, &stage.budget) == 0, "a budget");
  pf_source_t source = kind == FROM_FILE ? file_source(stage.have) : pager_source(store);
  stage.region = open_region(backend, source, PAGES * PAGE,
                             OPTIONS(.budget = stage.budget, .readahead = -1, .timeout_ms = 60, .store_length = stage.have, .name = plan));
  return stage;
}

static void close_stage(stage_t *stage) {
  EXPECT(close_region(stage->region));
  pf_budget_numbers_t numbers;
  pf_budget_numbers(stage->budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  pf_budget_drop(stage->budget);
}

/* --- once ------------------------------------------------------------------------------------------------------------------------------ */

static void each_call_once(pf_backend_t backend) {
  test_store_t store = {.serve = serve_pattern};
  start_store(&store);
  for (kind_t kind = 0; kind < KINDS; kind++) {
    for (int call = 0; call < CALLS; call++) {
      for (int which = 0; which < HOWS && injected_calls[call].how[which] != 0; which++) {
        for (int after = 0; after < 40; after += 1 + after / 2) {
          snprintf(plan, sizeof plan, "%s number %d said %d", injected_calls[call].name, after, injected_calls[call].how[which]);
          stage_t stage = open_stage(backend, kind, &store);
          int before = atomic_load(&unmet);
          arm(call, 0, after, injected_calls[call].how[which]);
          play(&stage, 9, 12);
          disarm();
          expect_sound(&stage);
          close_stage(&stage);
          if (atomic_load(&unmet) != before) {
            printf("  after %s, store %d\n", plan, (int)kind);
          }
        }
      }
    }
  }
  stop_store(&store);
}

/* --- at random --------------------------------------------------------------------------------------------------------------------------- */

static void at_random(pf_backend_t backend) {
  test_store_t store = {.serve = serve_pattern};
  start_store(&store);
  uint64_t end = pf_now_ns() + (SLOW ? 1500 : 2500) * MS;
  uint64_t seed = pf_now_ns() | 1;
  for (int round = 0; pf_now_ns() < end; round++) {
    snprintf(plan, sizeof plan, "seed %llu", (unsigned long long)seed);
    stage_t stage = open_stage(backend, round % KINDS, &store);
    int before = atomic_load(&unmet);
    uint64_t used_seed = seed;
    atomic_store(&dice, seed);
    unsigned odds = round % 3 == 0 ? 3 : round % 3 == 1 ? 10 : 50;
    arm(-1, odds, 0, 0);
    play(&stage, seed, 60);
    disarm();
    expect_sound(&stage);
    close_stage(&stage);
    if (atomic_load(&unmet) != before) {
      printf("  seed %llu, one call in %u, store %d\n", (unsigned long long)used_seed, odds, round % KINDS);
      break;
    }
    random_next(&seed);
  }
  stop_store(&store);
}

/* --- with several threads ------------------------------------------------------------------------------------------------------------------ */

static void play_sixty(void *data, unsigned number, uint64_t seed) {
  stage_t stage = *(const stage_t *)data;
  (void)number;
  play(&stage, seed, 60);
}

static void many_at_random(pf_backend_t backend) {
  test_store_t store = {.serve = serve_pattern};
  start_store(&store);
  uint64_t seed = pf_now_ns() | 1;
  for (int round = 0; round < 6; round++) {
    stage_t stage = open_stage(backend, round % KINDS, &store);
    int before = atomic_load(&unmet);
    atomic_store(&dice, seed);
    arm(-1, 20, 0, 0);
    play_together(3, play_sixty, &stage, &seed);
    disarm();
    expect_sound(&stage);
    close_stage(&stage);
    if (atomic_load(&unmet) != before) {
      printf("  round %d, store %d\n", round, round % KINDS);
    }
  }
  stop_store(&store);
}

/* --- set-up ----------------------------------------------------------------------------------------------------------------------------------- */

/* A region that cannot be made leaves nothing behind, and its source to the caller. */
static void creating(pf_backend_t backend) {
  EXPECT(close_region(open_region(backend, zero_source(), PAGE, OPTIONS()))); /* what is made once */
  unsigned mappings = count_mappings(), descriptors = count_descriptors(), regions = pf_region_count();
  int refused = 0;
  const call_t calls[] = {MMAP, MPROTECT, MADVISE};
  for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
    for (int after = 0; after < 12; after++) {
      pf_budget_t *budget;
      must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
      pf_source_t source = file_source(70000 * PAGE / 512);
      pf_region_options_t options = {.backend = backend, .source = source, .byte_length = 70000 * PAGE, .store_length = 70000 * PAGE / 512,
                                     .page_size = PAGE, .timeout_ms = 100, .name = "x", .store_name = "x", .budget = budget};
      pf_region_t *region = NULL;
      const char *step = "";
      arm(calls[c], 0, after, ENOMEM);
      int err = pf_region_create(&options, &region, &step);
      disarm();
      if (err == 0) {
        EXPECT_EQ(touch(region, 5), pattern(5));
        EXPECT(close_region(region));
      } else {
        refused++;
        EXPECT_EQ(err, -ENOMEM);
        EXPECT(step[0] != '\0');
        EXPECT(fcntl(source.fd, F_GETFD) >= 0);
        pf_source_close(&source);
      }
      pf_budget_drop(budget);
      EXPECT_EQ(pf_region_count(), regions);
    }
  }
  EXPECT(refused >= 4);
  EXPECT(count_mappings() <= mappings + (SLOW ? 40 : backend == PF_BACKEND_THREAD ? 6 : 2)); /* stacks of service threads */
  EXPECT_EQ(count_descriptors(), descriptors);
}

#if defined(__x86_64__)

int main(void) {
  test_each("a region that cannot be made leaves nothing behind", creating);
  test_each("whatever call fails once, pages are right or failed with a reason", each_call_once);
  test_each("whatever fails at random, too", at_random);
  test_each("and under several threads", many_at_random);
  return summary();
}

#else

int main(void) { return summary(); } /* a raw touch cannot be let go on elsewhere, so that one that fails would end the test */

#endif
