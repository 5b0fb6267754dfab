/* sanitizers: none */
/*
 * In a process that locks its memory (mlockall): what is mapped from then on is filled with the kernel's zeroes as soon as it is accessible, and locked pages
 * cannot be dropped. Segments must neither read those zeroes nor lose a byte. Not under the sanitizers, whose shadow memory would be locked, too.
 */
#include "support.h"

#include <linux/capability.h>
#include <sys/resource.h>

#define PAGES ((uint64_t)64)
#define LEN (PAGES * PAGE)

static uint64_t status_kib(const char *name) {
  FILE *file = fopen("/proc/self/status", "re");
  char line[128];
  unsigned long long kib = 0;
  must(file != NULL, "/proc/self/status");
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0) {
      sscanf(line + strlen(name), ": %llu", &kib);
    }
  }
  fclose(file);
  return kib;
}

UNWATCHED static void write_over(pf_region_t *region, uint8_t add) {
  for (uint64_t i = 0; i < LEN; i++) {
    ((volatile uint8_t *)region->base)[i] = (uint8_t)(pattern(i) + add);
  }
}

UNWATCHED static uint64_t wrong_bytes(const pf_region_t *region, uint8_t add) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < LEN; i++) {
    wrong += ((const volatile uint8_t *)region->base)[i] != (uint8_t)(pattern(i) + add);
  }
  return wrong;
}

static void locked_from_the_start(pf_backend_t backend) {
  must(mlockall(MCL_FUTURE) == 0, "mlockall");
  pf_budget_t *budget;
  must(pf_budget_create(16 * PAGE, &budget) == 0, "a budget");
  uint64_t huge = (uint64_t)8 << 30, before = status_kib("VmLck");
  pf_region_t *vast = open_region(backend, zero_source(), huge, OPTIONS(.writable = true));
  pf_region_t *all = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true));
  pf_region_t *some = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true, .budget = budget));
  pf_region_t *read = open_region(backend, memory_source(LEN), LEN, OPTIONS(.budget = budget));
  EXPECT_EQ(touch(vast, huge - 1), 0);
  EXPECT(status_kib("VmLck") < before + 65536);
  for (int round = 0; round < 2; round++) {
    EXPECT_EQ(first_difference(read, 0, LEN, 0, LEN), LEN);
    EXPECT_EQ(wrong_bytes(all, (uint8_t)round), 0);
    EXPECT_EQ(wrong_bytes(some, (uint8_t)round), 0);
    write_over(all, (uint8_t)(round + 1));
    write_over(some, (uint8_t)(round + 1));
  }
  EXPECT(counter(&some->counters.evictions) >= PAGES - 16);
  EXPECT(counter(&read->counters.evictions) >= PAGES - 16);
  EXPECT(close_region(vast) && close_region(all) && close_region(some) && close_region(read));
  pf_budget_drop(budget);
  munlockall();
}

/* What is in memory is locked then, and stays: who needs the room is told so, and nobody reads anything wrong. */
static void locked_later(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(16 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true, .budget = budget, .timeout_ms = 300));
  write_over(region, 1);
  must(mlockall(MCL_CURRENT) == 0, "mlockall");
  unsigned refused = 0;
  for (uint64_t page = 0; page < PAGES; page++) {
    int byte = checked_byte(region, page * PAGE + page);
    refused += byte < 0;
    EXPECT(byte == (uint8_t)(pattern(page * PAGE + page) + 1) || byte == -1 - PF_E_BUDGET || byte == -1 - PF_E_NO_MEMORY);
    if (refused == 3) { /* each waits for its deadline */
      break;
    }
  }
  munlockall();
  EXPECT_EQ(wrong_bytes(region, 1), 0);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* Memory that exists is locked already. */
static void locked_into(pf_backend_t backend) {
  must(mlockall(MCL_FUTURE) == 0, "mlockall");
  uint8_t *memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pf_budget_t *budget;
  must(memory != MAP_FAILED && pf_budget_create(16 * PAGE, &budget) == 0, "memory and a budget");
  pf_region_t *region = open_region(backend, memory_source(LEN), LEN, OPTIONS(.into = memory, .into_length = LEN, .shared = true, .writable = true, .budget = budget));
  EXPECT_EQ(wrong_bytes(region, 0), 0);
  write_over(region, 3);
  EXPECT_EQ(wrong_bytes(region, 3), 0);
  EXPECT(counter(&region->counters.evictions) >= PAGES - 16);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
  munmap(memory, LEN);
  munlockall();
}

/* --- RLIMIT_MEMLOCK -------------------------------------------------------------------------------------------------------------- */

static bool may_not_lock(void) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &head, data) != 0) {
    return false;
  }
  data[0].effective &= ~(1U << CAP_IPC_LOCK);
  struct rlimit limit = {1 << 20, 1 << 20};
  return syscall(SYS_capset, &head, data) == 0 && setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

static int create(pf_backend_t backend, pf_source_t source, uint64_t len, pf_region_t **out) {
  pf_region_options_t options = {.backend = backend, .source = source, .byte_length = len, .store_length = len, .page_size = PAGE, .writable = true, .timeout_ms = 20000};
  options.name = options.store_name = "limited";
  const char *step = "";
  return pf_region_create(&options, out, &step);
}

/* In a child of its own. */
static int limited(pf_backend_t backend) {
  pf_region_t *before = open_region(backend, memory_source(LEN), LEN, OPTIONS(.writable = true));
  pf_region_t *large = NULL, *small = NULL;
  pf_source_t source = memory_source(4 << 20);
  must(may_not_lock() && mlockall(MCL_FUTURE) == 0, "a limit");
  EXPECT_EQ(create(backend, source, 4 << 20, &large), -ENOMEM);
  EXPECT_EQ(create(backend, source, LEN, &small), 0);
  EXPECT_EQ(wrong_bytes(before, 0), 0);
  EXPECT_EQ(wrong_bytes(small, 0), 0);
  write_over(small, 7);
  EXPECT_EQ(wrong_bytes(small, 7), 0);
  EXPECT_EQ(status_kib("VmLck") <= 1024, 1);
  munlockall();
  EXPECT(close_region(small) && close_region(before));
  return atomic_load(&unmet) == 0 ? 0 : 1;
}

static void locked_up_to_a_limit(pf_backend_t backend) {
  ended_t ended;
  run_child("limited", backend, &ended);
  EXPECT_EXIT(&ended, 0);
}

int main(int count, char **arguments) {
  if (count == 4) {
    int code = limited(backend_named(arguments[3]));
    fflush(stdout);
    _exit(code);
  }
  if (mlockall(MCL_FUTURE) != 0 || geteuid() != 0) {
    printf("0 passed, 0 failed, skipped: memory cannot be locked here (%s)\n", strerror(errno));
    return 0;
  }
  munlockall();
  test_each("a process that locks all it maps reads what the store has, and its segments are not locked", locked_from_the_start);
  test_each("what a process locks by mlockall, and may not (RLIMIT_MEMLOCK), is refused as memory that is short", locked_up_to_a_limit);
  test_each("memory that exists and is locked is paged like any other", locked_into);
  for (pf_backend_t backend = PF_BACKEND_SIGNAL; backend < PF_BACKEND_THREAD; backend++) { /* mlockall would load all of a served region */
    test_on(backend, "pages that are locked later stay, and lose nothing", locked_later);
  }
  return summary();
}
