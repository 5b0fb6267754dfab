/* sanitizers: address,thread,none */
/* Thousands of regions come and go, under threads that read them: nothing is found in the wrong place and nothing is left behind. */
#include "support.h"

#define CROWD (SLOW ? 2000 : 10000)

static uint64_t memory_kib(void) {
  FILE *file = fopen("/proc/self/status", "re");
  char line[128];
  unsigned long long kib = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "RssAnon: %llu kB", &kib) == 1) {
      break;
    }
  }
  fclose(file);
  return kib;
}

static void one_after_the_other(pf_backend_t backend) {
  static uint8_t bytes[3 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  unsigned mappings = 0, descriptors = 0;
  uint64_t memory = 0;
  for (int i = 0; i < CROWD; i++) {
    pf_region_t *region = open_region(backend, source, 3 * PAGE, OPTIONS());
    EXPECT_EQ(touch(region, 2 * PAGE + 7), pattern(2 * PAGE + 7));
    EXPECT(close_region(region));
    if (i == CROWD / 10) { /* what is made once is there by now */
      mappings = count_mappings();
      descriptors = count_descriptors();
      memory = memory_kib();
    }
  }
  EXPECT(count_mappings() <= mappings + (SLOW ? 40 : 2));
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT(memory_kib() <= memory + (SLOW ? 20000 : 256));
  EXPECT_EQ(pf_scratch_count(), 0);
}

static void all_at_once(pf_backend_t backend) {
  static pf_region_t *regions[10000];
  static uint8_t bytes[2 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  unsigned mappings = count_mappings(), descriptors = count_descriptors(), open = pf_region_count();
  uint64_t seed = 17;
  for (int i = 0; i < CROWD; i++) {
    regions[i] = open_region(backend, source, 2 * PAGE, OPTIONS());
  }
  EXPECT_EQ(pf_region_count(), open + (unsigned)CROWD);
  for (int i = 0; i < CROWD; i++) {
    pf_region_t *region = regions[(i * 7919) % CROWD];
    EXPECT_EQ(touch(region, (uint64_t)(i % 2) * PAGE + 1), pattern((uint64_t)(i % 2) * PAGE + 1));
    pf_region_t *found = pf_region_at((uintptr_t)region->base + random_next(&seed) % region->length);
    EXPECT(found == region);
    pf_region_leave(found);
    EXPECT(pf_region_at((uintptr_t)region->base + region->length) == NULL); /* the guard page */
  }
  for (int i = 0; i < CROWD; i++) {
    uintptr_t base = (uintptr_t)regions[i]->base;
    uint64_t id = atomic_load(&regions[i]->id);
    EXPECT(close_region(regions[i]));
    EXPECT(pf_region_at(base) == NULL);
    EXPECT(pf_region_by_id(id) == NULL);
  }
  EXPECT_EQ(pf_region_count(), open);
  EXPECT(count_mappings() <= mappings + (SLOW ? 40 : 4));
  EXPECT(count_descriptors() <= descriptors + 2);
}

/* --- closed under threads ------------------------------------------------------------------------------------------------- */

#define READERS 8
#define SLOTS 16

static _Atomic uint64_t shelf[SLOTS]; /* ids */
static _Atomic int stop;
static _Atomic uint64_t read_well, read_closed;

static void *read_shelf(void *data) {
  uint64_t seed = (uint64_t)(uintptr_t)data * 2654435761 + 1;
  sigset_t before;
  while (!atomic_load(&stop)) {
    uint64_t id = atomic_load(&shelf[random_next(&seed) % SLOTS]);
    pf_mask_signals(&before);
    pf_region_t *region = pf_region_by_id(id);
    if (region != NULL) {
      uint8_t copy[40];
      uint64_t offset = random_next(&seed) % (region->byte_length - sizeof copy), page;
      pf_why_t why;
      if (pf_region_copy_out(region, offset, copy, sizeof copy, &page, &why)) {
        for (size_t i = 0; i < sizeof copy; i++) {
          EXPECT_EQ(copy[i], pattern(offset + i));
        }
        atomic_fetch_add(&read_well, 1);
      } else {
        EXPECT_EQ(why.code, PF_E_CLOSED);
        atomic_fetch_add(&read_closed, 1);
      }
      pf_region_leave(region);
    }
    pf_restore_signals(&before);
  }
  return NULL;
}

static void under_readers(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pthread_t readers[READERS];
  atomic_store(&stop, 0);
  atomic_store(&read_well, 0);
  for (uintptr_t i = 0; i < READERS; i++) {
    must(pthread_create(&readers[i], NULL, read_shelf, (void *)(i + 1)) == 0, "a thread");
  }
  uint64_t seed = 5;
  unsigned open = pf_region_count();
  static uint8_t bytes[64 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_region_t *regions[SLOTS] = {NULL};
  for (int i = 0; i < (SLOW ? 1000 : 4000); i++) {
    uint64_t at = random_next(&seed) % SLOTS;
    if (regions[at] != NULL) {
      uint64_t id = atomic_load(&regions[at]->id);
      pf_region_close(regions[at], true); /* the readers find it for a while yet */
      pf_region_leave(regions[at]);
      pf_region_memory_gone(id);
    }
    uint64_t len = (2 + random_next(&seed) % 62) * PAGE;
    pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
    regions[at] = open_region(backend, source, len, OPTIONS(.budget = i % 2 == 0 ? budget : NULL, .readahead = -1));
    atomic_store(&shelf[at], atomic_load(&regions[at]->id));
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < READERS; i++) {
    pthread_join(readers[i], NULL);
  }
  for (int i = 0; i < SLOTS; i++) {
    EXPECT(regions[i] == NULL || close_region(regions[i]));
  }
  pf_region_reap();
  EXPECT_EQ(pf_region_count(), open);
  EXPECT(atomic_load(&read_well) > 100);
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  pf_budget_drop(budget);
}

/* A holder more keeps it open; the last one closes it; force closes it whoever holds it. */
static void holders(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT(pf_region_hold(region));
  EXPECT(!pf_region_close(region, false));
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT(pf_region_close(region, false));
  EXPECT(!pf_region_close(region, false));
  EXPECT(!pf_region_hold(region));
  EXPECT_EQ(checked_byte(region, PAGE), -1 - PF_E_CLOSED);
  EXPECT(close_region(region));
  region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT(pf_region_hold(region));
  EXPECT(pf_region_close(region, true));
  EXPECT(close_region(region));
}

/* Closed and shared: what it held is given back although its addresses stay. */
static void drained(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 64 * PAGE);
  unsigned descriptors = count_descriptors();
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 64 * PAGE, OPTIONS(.shared = true, .budget = budget));
  uint64_t id = atomic_load(&region->id);
  EXPECT_EQ(first_difference(region, 0, 20 * PAGE, 0, 64 * PAGE), 20 * PAGE);
  uint8_t *base = region->base;
  EXPECT(pf_region_close(region, true));
  pf_region_leave(region);
  pf_region_reap();
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  EXPECT_EQ(count_descriptors(), descriptors); /* the file is closed; the core made its own before */
  for (size_t at = 0; at < 64 * PAGE; at += PAGE) {
    EXPECT_EQ(pf_mem_resident(base + at, PAGE), 0);
  }
  pf_region_memory_gone(id);
  EXPECT(pf_region_by_id(id) == NULL);
  EXPECT(pf_mem_resident(base, PAGE) != 1);
  pf_budget_drop(budget);
  unlink(path);
}

int main(void) {
  test_each("regions opened, touched and closed one after the other leave nothing behind", one_after_the_other);
  test_each("thousands of regions are open at once, each found by its addresses alone", all_at_once);
  test_each("regions closed under eight reading threads end as closed, never as wrong bytes", under_readers);
  test_each("a region is open as long as somebody holds it", holders);
  test_each("a closed region whose memory stays gives everything else back", drained);
  return summary();
}
