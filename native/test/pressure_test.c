/* sanitizers: none */
/*
 * No address space, no private memory, no mapping, no descriptor, no thread is left: at each stage of a region's life the answer is an error or the right bytes, and
 * once there is some again, everything goes on. The limits are real, and nothing at all is left. Not under the sanitizers, which need memory of their own.
 */
#include "write_support.h"

#include "../../test/helpers/pressure.h"

#define PAGES ((uint64_t)64)
#define LEN (PAGES * PAGE)
#define SLACK 50    /* mappings that malloc makes of its own where it cannot extend the one it has */
#define BRIEF_MS 60 /* of a wait that is in vain */

static const char *pressure; /* of the test that runs */

/* Those of the pressure itself do not count: two for each. */
static long own_mappings(void) { return (long)count_mappings() - 2 * (long)pressure_made; }

static void on(void) { must(pressure_apply(pressure, 0) >= 0, pressure); }
static void off(void) { must(pressure_apply(pressure, -1) >= 0, pressure); }

static pf_region_options_t options_for(pf_backend_t backend, pf_source_t source, pf_region_options_t options) {
  options.backend = backend;
  options.source = source;
  options.byte_length = options.byte_length == 0 ? LEN : options.byte_length;
  options.store_length = options.byte_length;
  options.page_size = options.page_size == 0 ? PAGE : options.page_size;
  options.timeout_ms = BRIEF_MS;
  options.name = options.store_name = "pressed";
  return options;
}

static bool is_shortage(int err) { return err == -ENOMEM || err == -EMFILE || err == -EAGAIN; }
static bool is_short_of(pf_why_t why) { return why.code == PF_E_NO_MEMORY || why.code == PF_E_BUDGET || why.code == PF_E_SYSTEM; }

UNWATCHED static void write_all(pf_region_t *region, uint8_t add) {
  for (uint64_t i = 0; i < LEN; i++) {
    ((volatile uint8_t *)region->base)[i] = (uint8_t)(pattern(i) + add);
  }
}

/* --- opening ------------------------------------------------------------------------------------------------------------------- */

static void opens(pf_backend_t backend) {
  pf_region_t *region = NULL;
  const char *step = "";
  pf_scratch_trim();
  for (int round = 0; round < 3; round++) {
    static const size_t lengths[] = {64, 70000, 1 << 20};
    pf_region_options_t options = options_for(backend, zero_source(), OPTIONS(.writable = true, .byte_length = lengths[round] * PAGE));
    long before = own_mappings();
    on();
    int err = pf_region_create(&options, &region, &step);
    off();
    EXPECT(err == 0 || (is_shortage(err) && step[0] != '\0'));
    if (err == 0) {
      EXPECT(close_region(region));
    } else {
      EXPECT(round == 0 || own_mappings() <= before + SLACK); /* the first one starts the core */
    }
    region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true));
    EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
    EXPECT(close_region(region));
  }
}

static void opens_many(pf_backend_t backend) {
  static pf_region_t *regions[40000];
  long before = own_mappings();
  unsigned count = 0, descriptors = count_descriptors();
  const char *step = "";
  int err = 0;
  must(pressure_apply(pressure, 2000) >= 0, pressure);
  for (; err == 0 && count < 40000; count += err == 0) {
    pf_region_options_t options = options_for(backend, zero_source(), OPTIONS(.writable = true));
    err = pf_region_create(&options, &regions[count], &step);
  }
  EXPECT_EQ(err, -ENOMEM);
  for (unsigned i = 0; i < 20; i++) {
    int byte = checked_byte(regions[i], 5);
    EXPECT(byte == 0 || byte == -1 - PF_E_NO_MEMORY);
  }
  pressure_give_mappings_back(20000);
  for (unsigned i = 0; i < count; i++) {
    pf_why_t why;
    EXPECT(ensure(regions[i], 1, LONG_MS, true, &why) && touch(regions[i], PAGE + 5) == 0);
  }
  pressure_apply(pressure, 0);
  for (unsigned i = 0; i < count; i++) {
    EXPECT(close_region(regions[i])); /* under the pressure still */
  }
  off();
  must(pressure_apply("maps", -1) >= 0, "maps");
  EXPECT(count > 100);
  EXPECT(own_mappings() <= before + SLACK && count_descriptors() == descriptors);
}

/* --- pages ----------------------------------------------------------------------------------------------------------------------- */

static void reads(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.timeout_ms = BRIEF_MS));
  pf_failure_t failure;
  pf_scratch_trim();
  EXPECT_EQ(pf_attempt_begin(), 0); /* what this thread needs for that is there */
  pf_attempt_end(&failure);
  for (uint64_t page = 0; page < PAGES; page += 2) { /* no two in one mapping */
    on();
    EXPECT_EQ(pf_attempt_begin(), 0);
    uint8_t byte = touch(region, page * PAGE + 7);
    bool failed = pf_attempt_end(&failure);
    int checked = checked_byte(region, (page + 1) * PAGE + 7);
    off();
    EXPECT(failed ? is_short_of(failure.why) : byte == pattern(page * PAGE + 7));
    EXPECT(checked >= 0 ? checked == pattern((page + 1) * PAGE + 7) : is_short_of((pf_why_t){.code = (pf_code_t)(-1 - checked)}));
    if (page > 4) { /* once scratch memory is there it is used again */
      break;
    }
  }
  pf_why_t why;
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT(ensure(region, page, LONG_MS, true, &why));
  }
  EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  EXPECT(close_region(region));
}

static _Atomic int pressed;

static void *relieve(void *unused) {
  (void)unused;
  while (!atomic_load(&pressed)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  pf_sleep_until(pf_now_ns() + 30 * MS);
  off();
  return NULL;
}

/* A thread that is stopped at a page goes on with the right bytes when there is memory again. */
static void waits(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS());
  pthread_t thread;
  pf_scratch_trim();
  atomic_store(&pressed, 0);
  must(pthread_create(&thread, NULL, relieve, NULL) == 0, "a thread");
  on();
  atomic_store(&pressed, 1);
  for (uint64_t page = 0; page < PAGES; page += 3) {
    EXPECT_EQ(touch(region, page * PAGE + 9), pattern(page * PAGE + 9));
  }
  pthread_join(thread, NULL);
  EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
}

/* --- writing ------------------------------------------------------------------------------------------------------------------------ */

static void evicts(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(16 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true, .budget = budget, .timeout_ms = BRIEF_MS));
  uint8_t one[1];
  uint64_t page, written = 0;
  pf_why_t why = {0};
  pf_scratch_trim();
  on();
  for (; written < PAGES; written++) { /* the first eviction needs memory for what is staged */
    one[0] = (uint8_t)(written + 100);
    sigset_t before;
    pf_mask_signals(&before);
    bool went = pf_region_copy_in(region, written * PAGE, one, 1, &page, &why);
    pf_restore_signals(&before);
    if (!went) {
      break;
    }
  }
  off();
  EXPECT(written == PAGES || is_short_of(why));
  pf_why_t healed;
  EXPECT(written == PAGES || ensure(region, written, LONG_MS, true, &healed));
  for (page = 0; page < PAGES; page++) {
    EXPECT_EQ(checked_byte(region, page * PAGE), page < written ? (uint8_t)(page + 100) : pattern(page * PAGE));
  }
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

static void flushes(pf_backend_t backend) {
  pf_source_t source = memory_source(LEN);
  const uint8_t *store = source.owned;
  pf_region_t *region = open_region(backend, source, LEN, OPTIONS(.writable = true, .timeout_ms = 2000));
  write_all(region, 1);
  while (pf_loader_threads() > 0) { /* so that one must be made */
    pf_sleep_until(pf_now_ns() + 10 * MS);
  }
  pf_job_t job = {.region = region, .end = PAGES, .kind = PF_JOB_FLUSH};
  flushing_t flush = {0};
  flush.job = (pf_job_t){.region = region, .end = PAGES, .kind = PF_JOB_FLUSH, .done = on_flush_done};
  on();
  pf_flush_run(&job);
  int submitted = pf_loader_submit(&flush.job);
  off();
  EXPECT(job.why.code == PF_OK || is_short_of(job.why));
  EXPECT(submitted == 0 || submitted == -EAGAIN || submitted == -ENOMEM);
  EXPECT(submitted != 0 || end_flush(&flush) == PF_OK || is_short_of(flush.job.why));
  EXPECT_EQ(flush_all(region), PF_OK);
  for (uint64_t i = 0; i < LEN; i++) {
    EXPECT_EQ(store[i], (uint8_t)(pattern(i) + 1));
  }
  EXPECT(close_region(region));
}

static void pins(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS());
  on();
  int err = pf_pin_add(region, 3, 9);
  int held = pf_page_hold(region, 20);
  off();
  EXPECT(err == 0 || err == -ENOMEM);
  EXPECT(held == 0 || held == -ENOMEM);
  if (err == 0) {
    pf_pin_remove(region, 3, 9);
  }
  if (held == 0) {
    pf_page_unhold(region, 20);
  }
  EXPECT_EQ(pf_pin_add(region, 3, 9), 0);
  pf_pin_remove(region, 3, 9);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  EXPECT(close_region(region));
}

/* --- memory of others -------------------------------------------------------------------------------------------------------------------- */

static void patches(pf_backend_t backend) {
  pf_object_t *object, *made = NULL;
  must(pf_object_create(16 * PAGE, &object) == 0, "an object");
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS());
  EXPECT_EQ(first_difference(region, 0, 8 * PAGE, 0, LEN), 8 * PAGE);
  on();
  int created = pf_object_create(16 * PAGE, &made), err = pf_region_patch(region, 4, 16, object, 0);
  off();
  EXPECT(created == 0 || is_shortage(created));
  EXPECT(err == 0 || is_shortage(err));
  if (created == 0) {
    pf_object_drop(made);
  }
  EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  if (err != 0) {
    EXPECT_EQ(pf_region_patch(region, 4, 16, object, 0), 0);
    EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  }
  pf_object_drop(object);
  EXPECT(close_region(region));
}

static void into_memory(pf_backend_t backend) {
  uint8_t *memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(memory != MAP_FAILED, "memory");
  memset(memory, 0xaa, LEN);
  pf_source_t source = memory_source(LEN);
  pf_region_options_t options = options_for(backend, source, OPTIONS(.into = memory, .into_length = LEN, .shared = true));
  pf_region_t *region = NULL;
  const char *step = "";
  on();
  int err = pf_region_create(&options, &region, &step);
  off();
  EXPECT(err == 0 || is_shortage(err));
  if (err != 0) {
    region = open_region(backend, source, LEN, OPTIONS(.into = memory, .into_length = LEN, .shared = true));
  }
  EXPECT_EQ(first_difference(region, 0, LEN, 0, LEN), LEN);
  on();
  EXPECT(close_region(region));
  off();
  munmap(memory, LEN);
}

static void closes(pf_backend_t backend) {
  pf_scratch_trim();
  long before = own_mappings();
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true));
  write_all(region, 1);
  EXPECT_EQ(pf_pin_add(region, 0, 2), 0);
  on();
  bool closed = close_region(region);
  off();
  EXPECT(closed);
  pf_scratch_trim();
  EXPECT(own_mappings() <= before + SLACK);
}

/* --- starting ------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t address_space(void) {
  FILE *file = fopen("/proc/self/statm", "re");
  unsigned long long pages = 0;
  must(file != NULL && fscanf(file, "%llu", &pages) == 1, "/proc/self/statm");
  fclose(file);
  return pages * PAGE;
}

/* In a process in which the core was never started: it cannot be now, and takes nothing each time. */
static void starts(pf_backend_t backend) {
  fflush(stdout);
  pid_t child = fork();
  must(child >= 0, "a child");
  if (child == 0) {
    uint64_t before = address_space(), spare = (uint64_t)400 << 20;
    struct rlimit limit = {.rlim_cur = before + spare, .rlim_max = before + spare};
    must(setrlimit(RLIMIT_AS, &limit) == 0, "a limit");
    const char *step = "";
    int refused = 0;
    for (int i = 0; i < 8; i++) {
      pf_region_options_t options = options_for(backend, zero_source(), OPTIONS());
      pf_region_t *region;
      refused += pf_region_create(&options, &region, &step) == -ENOMEM;
    }
    _exit(refused == 8 && address_space() - before < spare / 2 ? 0 : 1);
  }
  int status = 0;
  must(waitpid(child, &status, 0) == child, "its end");
  EXPECT_EQ(status, 0);
}

/* --- all of them --------------------------------------------------------------------------------------------------------------------------- */

static void test_under(const char *name, const char *left) {
  static const struct {
    const char *what;
    void (*body)(pf_backend_t backend);
  } stages[] = {
      {"a region is opened", opens},         {"pages are read", reads},
      {"a stopped thread waits", waits},     {"pages are evicted", evicts},
      {"pages are flushed", flushes},        {"pages are pinned", pins},
      {"shared memory is laid over", patches}, {"memory that exists is paged", into_memory},
      {"a region is closed", closes},
  };
  pressure = name;
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
    char sentence[128];
    snprintf(sentence, sizeof sentence, "%s while no %s is left", stages[i].what, left);
    test_each(sentence, stages[i].body);
  }
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "the core is not started while no address space is left, and takes none", starts);
  test_under("nofile", "descriptor"); /* first: what is opened once must not be opened yet */
  test_under("as", "address space");
  test_under("data", "memory");
  test_under("mappings", "mapping");
  test_each("regions are opened until the kernel has no mapping left, and closed", opens_many);
  pressure_apply("maps", -1);
  return summary();
}
