/* sanitizers: address,thread,none */
/*
 * One region against a plain array: random accesses, writes, flushes, discards, releases, pins, with random page sizes, stores and budgets. After each step what is read is
 * what the array has, what differs from the store is dirty, and, where nothing is evicted, nothing else is. PF_TEST_SEED repeats a run.
 */
#include "write_support.h"

#include "players.h"

#define MOST_PAGES 40

typedef struct {
  pf_region_t *region;
  pf_budget_t *budget;
  write_store_t *writes; /* NULL: a file */
  int fd;
  uint64_t pages, size, stored; /* `stored` bytes are the store's */
  uint8_t *model;
  uint8_t pins[MOST_PAGES];
  uint64_t pinned;
  bool doomed[MOST_PAGES];  /* discarded while pinned */
  bool written[MOST_PAGES]; /* since it was flushed or discarded */
} rig_t;

static rig_t open_rig(uint64_t *seed) {
  static const size_t sizes[] = {1, 1, 4, 16};
  rig_t rig = {.size = PAGE * sizes[random_next(seed) % 4], .pages = 8 + random_next(seed) % (MOST_PAGES - 8)};
  uint64_t length = rig.pages * rig.size;
  rig.stored = random_next(seed) % 3 == 0 ? length : length - random_next(seed) % (length / 2);
  bool budget = random_next(seed) % 2 == 0, pager = random_next(seed) % 2 == 0;
  pf_region_options_t options = {.writable = true, .page_size = rig.size, .store_length = rig.stored};
  uint64_t behind = rig.pages - (rig.stored + rig.size - 1) / rig.size; /* what lies there is never evicted once it is written */
  if (budget) {
    must(pf_budget_create((6 + behind) * rig.size + PAGE, &rig.budget) == 0, "a budget");
    options.budget = rig.budget;
  }
  if (pager) {
    rig.writes = calloc(1, sizeof *rig.writes);
    must(rig.writes != NULL, "memory");
    start_write_store(rig.writes, rig.stored);
    options.on_write = random_next(seed) % 2 == 0;
    options.readahead = random_next(seed) % 2 == 0 ? -1 : 0;
    rig.region = open_region(the_backend, pager_source(&rig.writes->store), length, options);
  } else {
    options.readahead = -1;
    rig.region = open_region(the_backend, writable_file(rig.stored, &rig.fd), length, options);
  }
  rig.model = calloc(1, length);
  must(rig.model != NULL, "memory");
  fill_pattern(rig.model, 0, rig.stored);
  return rig;
}

static void close_rig(rig_t *rig) {
  EXPECT(close_region(rig->region));
  if (rig->budget != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(rig->budget, &numbers);
    EXPECT_EQ(numbers.used, 0);
    EXPECT_EQ(numbers.staged, 0);
    pf_budget_drop(rig->budget);
  }
  if (rig->writes != NULL) {
    stop_write_store(rig->writes);
    free(rig->writes);
  } else {
    close(rig->fd);
  }
  free(rig->model);
}

static void read_store(const rig_t *rig, uint64_t page, uint8_t *into) {
  uint64_t at = page * rig->size, have = at >= rig->stored ? 0 : rig->stored - at < rig->size ? rig->stored - at : rig->size;
  memset(into, 0, rig->size);
  if (have > 0 && rig->writes != NULL) {
    copy_stored(rig->writes, into, rig->writes->bytes + at, have);
  } else if (have > 0) {
    must(syscall(SYS_pread64, rig->fd, into, have, (off_t)at) == (ssize_t)have, "a read of the store");
  }
}

/* The page is the store's again. */
static void forget(rig_t *rig, uint64_t page) {
  read_store(rig, page, rig->model + page * rig->size);
  rig->doomed[page] = rig->written[page] = false;
}

/* Where a write may go: in the store's part of a page, or anywhere in a page that the store has nothing of. */
static uint64_t random_place(const rig_t *rig, uint64_t *seed) {
  uint64_t page = random_next(seed) % rig->pages, at = page * rig->size;
  uint64_t room = at >= rig->stored || rig->stored - at > rig->size ? rig->size : rig->stored - at;
  return at + random_next(seed) % room;
}

static void write_some(rig_t *rig, uint64_t *seed) {
  uint8_t bytes[300];
  uint64_t at = random_place(rig, seed), len = 1;
  bytes[0] = (uint8_t)random_next(seed);
  if (random_next(seed) % 2 == 0) {
    poke(rig->region, at, bytes[0]);
  } else {
    uint64_t end = at < rig->stored ? rig->stored : rig->pages * rig->size;
    len = 1 + random_next(seed) % sizeof bytes;
    len = len < end - at ? len : end - at;
    memset(bytes, bytes[0], len);
    EXPECT_EQ(copy_in(rig->region, at, bytes, len), PF_OK);
  }
  memset(rig->model + at, bytes[0], len);
  for (uint64_t page = at / rig->size; page <= (at + len - 1) / rig->size; page++) {
    rig->written[page] = true;
  }
}

static void read_some(rig_t *rig, uint64_t *seed) {
  uint64_t at = random_place(rig, seed);
  EXPECT_EQ(random_next(seed) % 2 == 0 ? touch(rig->region, at) : (unsigned)checked_byte(rig->region, at), rig->model[at]);
}

static void pin_some(rig_t *rig, uint64_t page) {
  sigset_t before;
  pf_mask_signals(&before);
  if (rig->pins[page] > 0) {
    pf_pin_remove(rig->region, page, page + 1);
    rig->pinned--;
    if (--rig->pins[page] == 0 && rig->doomed[page]) {
      forget(rig, page);
    }
  } else if ((rig->budget == NULL || rig->pinned == 0) && pf_pin_add(rig->region, page, page + 1) == 0) {
    pf_why_t why;
    rig->pins[page]++;
    rig->pinned++;
    EXPECT(ensure(rig->region, page, 20000, false, &why));
  }
  pf_restore_signals(&before);
}

static void discard_some(rig_t *rig, uint64_t first, uint64_t end) {
  uint64_t dirty = dirty_bits(rig->region); /* what eviction has written is not */
  EXPECT(discard(rig->region, first, end));
  for (uint64_t page = first; page < end; page++) {
    bool behind = page * rig->size >= rig->stored;
    if (rig->pins[page] == 0) {
      forget(rig, page);
    } else {
      rig->doomed[page] = rig->doomed[page] || (dirty >> page & 1) || (behind && rig->written[page]);
    }
  }
}

static void flush_some(rig_t *rig, uint64_t first, uint64_t end) {
  EXPECT_EQ(flush_pages(rig->region, first, end), PF_OK);
  for (uint64_t page = first; page < end; page++) {
    rig->written[page] = rig->written[page] && (page * rig->size >= rig->stored || rig->doomed[page]);
  }
}

static void check(rig_t *rig) {
  static uint8_t bytes[65536];
  uint64_t dirty = dirty_bits(rig->region);
  for (uint64_t page = 0; page < rig->pages; page++) {
    bool is_dirty = dirty >> page & 1, of_store = page * rig->size < rig->stored;
    read_store(rig, page, bytes);
    bool differs = memcmp(bytes, rig->model + page * rig->size, rig->size) != 0;
    bool must_be = of_store && differs && !rig->doomed[page], may_be = of_store && rig->written[page] && !rig->doomed[page];
    EXPECT(!must_be || is_dirty);
    EXPECT(may_be || !is_dirty);
    EXPECT(rig->budget != NULL || is_dirty == may_be);
  }
}

static void step(rig_t *rig, uint64_t *seed) {
  uint64_t first = random_next(seed) % rig->pages, end = first + 1 + random_next(seed) % (rig->pages - first);
  switch (random_next(seed) % 24) {
    case 0:
      release(rig->region, first, end);
      break;
    case 1:
      EXPECT(invalidate(rig->region, first, end));
      break;
    case 2:
      reset_detection(rig->region, first, end);
      break;
    case 3:
      flush_some(rig, first, end);
      break;
    case 4:
      discard_some(rig, first, random_next(seed) % 2 == 0 ? first + 1 : end);
      break;
    case 5:
      pin_some(rig, first);
      break;
    case 6:
    case 7:
      stage_page(rig->region, first);
      break;
    case 8:
      check(rig);
      break;
    default:
      if (random_next(seed) % 2 == 0) {
        read_some(rig, seed);
      } else {
        write_some(rig, seed);
      }
  }
}

static uint64_t first_seed(void) {
  const char *given = getenv("PF_TEST_SEED");
  return given != NULL ? strtoull(given, NULL, 10) : pf_now_ns() | 1;
}

static void finish_rig(rig_t *rig) {
  for (uint64_t page = 0; page < rig->pages; page++) {
    while (rig->pins[page] > 0) {
      pin_some(rig, page);
    }
  }
  flush_some(rig, 0, rig->pages);
  check(rig);
  EXPECT_EQ(dirty_bits(rig->region), 0);
  for (uint64_t at = 0; at < rig->pages * rig->size; at += 97) {
    EXPECT_EQ(touch(rig->region, at), rig->model[at]);
  }
}

static void one_thread(void) {
  uint64_t seed = first_seed(), end = pf_now_ns() + (SLOW ? 1200 : 2000) * MS;
  while (pf_now_ns() < end && atomic_load(&unmet) == 0) {
    uint64_t began = seed;
    rig_t rig = open_rig(&seed);
    for (int i = 0; i < 400 && atomic_load(&unmet) == 0; i++) {
      step(&rig, &seed);
    }
    finish_rig(&rig);
    close_rig(&rig);
    if (atomic_load(&unmet) != 0) {
      printf("  seed %llu\n", (unsigned long long)began);
    }
  }
}

/* --- several threads: each has bytes of its own in every page ------------------------------------------------------------------------ */

#define THREADS 3

static void play(void *stage, unsigned number, uint64_t seed) {
  rig_t *rig = stage;
  for (int i = 0; i < 150; i++) {
    uint64_t first = random_next(&seed) % rig->pages, end = first + 1 + random_next(&seed) % (rig->pages - first);
    uint64_t at = first * rig->size + random_next(&seed) % (rig->size / THREADS) * THREADS + number;
    uint8_t value = (uint8_t)random_next(&seed);
    switch (random_next(&seed) % 16) {
      case 0:
        release(rig->region, first, end);
        break;
      case 1:
        EXPECT(invalidate(rig->region, first, end));
        break;
      case 2:
        EXPECT_EQ(flush_pages(rig->region, first, end), PF_OK);
        break;
      case 3:
        reset_detection(rig->region, first, end);
        break;
      case 4:
        stage_page(rig->region, first);
        break;
      case 5:
        dirty_in(rig->region, first, end);
        break;
      default:
        if (at < rig->stored) {
          EXPECT_EQ(touch(rig->region, at), rig->model[at]);
          if (i % 2 == 0 || TSAN) { /* a checked write while a flush reads is a race that is meant: the page is dirty again */
            poke(rig->region, at, value);
          } else {
            EXPECT_EQ(copy_in(rig->region, at, &value, 1), PF_OK);
          }
          rig->model[at] = value;
        }
    }
  }
}

static void several_threads(void) {
  uint64_t seed = first_seed(), end = pf_now_ns() + (SLOW ? 1200 : 2000) * MS;
  while (pf_now_ns() < end && atomic_load(&unmet) == 0) {
    uint64_t began = seed;
    rig_t rig = open_rig(&seed);
    play_together(THREADS, play, &rig, &seed);
    memset(rig.written, 1, sizeof rig.written);
    finish_rig(&rig);
    close_rig(&rig);
    if (atomic_load(&unmet) != 0) {
      printf("  seed %llu\n", (unsigned long long)began);
    }
  }
}

static void all(void) {
  test_here("a segment is an array, whatever is done to it", one_thread);
  test_here("a segment is an array to each of several threads", several_threads);
}

static void no_child(const char *name) { (void)name; }

int main(int count, char **arguments) { return run_modes(count, arguments, all, no_child); }
