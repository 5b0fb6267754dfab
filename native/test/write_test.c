/* sanitizers: address,thread,none */
/*
 * Which pages are dirty after what, and what becomes of them: written raw, checked, by the kernel; flushed, evicted, staged, taken back, discarded, released,
 * invalidated, reset; with stores that fail, and stores that a pager writes (write_pager_test.c). Each way of tracking is a process of its own.
 */
#include "write_support.h"

/* --- a file that cannot be written, for a while ---------------------------------------------------------------------------------- */

static _Atomic int write_errno, writes_to_pass, sync_errno; /* 0: they work */
static _Atomic uint64_t writes_made, syncs_made;

ssize_t pwrite(int fd, const void *from, size_t len, off_t offset) {
  int err = atomic_load(&write_errno);
  if (err != 0 && atomic_fetch_sub(&writes_to_pass, 1) <= 0) {
    errno = err;
    return -1;
  }
  atomic_fetch_add(&writes_made, 1);
  return syscall(SYS_pwrite64, fd, from, len, offset);
}

int fdatasync(int fd) {
  (void)fd;
  atomic_fetch_add(&syncs_made, 1);
  errno = atomic_load(&sync_errno);
  return errno == 0 ? 0 : -1;
}

static void let_writes_fail(int err, int pass) {
  atomic_store(&writes_to_pass, pass);
  atomic_store(&write_errno, err);
}

/* --- regions over a file ------------------------------------------------------------------------------------------------------------ */

typedef struct {
  pf_region_t *region;
  pf_budget_t *budget;
  int fd; /* the test's own, of the same file */
} file_t;

static file_t open_file(uint64_t byte_length, uint64_t store_length, uint64_t budget_pages, pf_region_options_t options) {
  file_t file = {0};
  options.writable = true;
  options.store_length = store_length;
  size_t size = options.page_size == 0 ? PAGE : options.page_size;
  if (budget_pages > 0) {
    must(pf_budget_create(budget_pages * size, &file.budget) == 0, "a budget");
    options.budget = file.budget;
  }
  file.region = open_region(the_backend, writable_file(store_length, &file.fd), byte_length, options);
  EXPECT_EQ(file.region->track, the_track);
  return file;
}

static void close_file(file_t *file) {
  EXPECT(close_region(file->region));
  if (file->budget != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(file->budget, &numbers);
    EXPECT_EQ(numbers.used, 0);
    EXPECT_EQ(numbers.staged, 0);
    pf_budget_drop(file->budget);
  }
  close(file->fd);
}

/* --- which page is dirty after what --------------------------------------------------------------------------------------------------- */

/* read(2) of one byte into the region: 0, or the errno. */
static int kernel_write(pf_region_t *region, uint64_t offset, uint8_t value) {
  int ends[2];
  must(pipe(ends) == 0 && write(ends[1], &value, 1) == 1, "a pipe");
  ssize_t got = syscall(SYS_read, ends[0], region->base + offset, 1);
  int err = got == 1 ? 0 : errno;
  close(ends[0]);
  close(ends[1]);
  return err;
}

static void state_table(void) {
  file_t file = open_file(10 * PAGE, 10 * PAGE, 0, OPTIONS());
  pf_region_t *region = file.region;
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(touch(region, 0), pattern(0)); /* 0: read */
  EXPECT_EQ(dirty_bits(region), 0);
  poke(region, PAGE + 7, 0xa1); /* 1: first touched by a write */
  EXPECT_EQ(dirty_bits(region), 2);
  EXPECT_EQ(touch(region, 2 * PAGE), pattern(2 * PAGE)); /* 2: read, then written */
  poke(region, 2 * PAGE + 7, 0xa2);
  EXPECT_EQ(dirty_bits(region), 6);
  uint8_t three = 0xa3, long_write[100];
  memset(long_write, 0xa5, sizeof long_write);
  EXPECT_EQ(copy_in(region, 3 * PAGE + 7, &three, 1), PF_OK); /* 3: checked, missing */
  EXPECT_EQ(dirty_bits(region), 0xe);
  EXPECT_EQ(copy_in(region, 5 * PAGE - 50, long_write, 100), PF_OK); /* 4 and 5: over the edge */
  EXPECT_EQ(dirty_bits(region), 0x3e);
  EXPECT_EQ(copy_in(region, 7, &three, 1), PF_OK); /* 0: checked, clean */
  EXPECT_EQ(dirty_bits(region), 0x3f);
  bool tells = !region->served; /* 6: missing, so the kernel says so */
  EXPECT_EQ(kernel_write(region, 6 * PAGE + 7, 0xa6), tells ? EFAULT : 0);
  EXPECT_EQ(dirty_bits(region), tells ? 0x3f : 0x7f);
  EXPECT_EQ(touch(region, 6 * PAGE), pattern(6 * PAGE)); /* 6: there, and clean */
  tells = tells && region->track != PF_TRACK_ASYNC;
  EXPECT_EQ(kernel_write(region, 6 * PAGE + 7, 0xa6), tells ? EFAULT : 0);
  EXPECT_EQ(dirty_bits(region), tells ? 0x3f : 0x7f);
  EXPECT_EQ(kernel_write(region, PAGE + 8, 0xb1), 0); /* 1: written already */
  EXPECT_EQ(touch(region, 7 * PAGE), pattern(7 * PAGE)); /* 7: staged clean, then written */
  EXPECT(stage_page(region, 7));
  EXPECT_EQ(state_of(region, 7), PF_STAGED);
  uint64_t before = dirty_bits(region);
  EXPECT_EQ(before & 0x80, 0);
  poke(region, 7 * PAGE + 7, 0xa7);
  EXPECT_EQ(dirty_bits(region), before | 0x80);
  poke(region, 8 * PAGE + 7, 0xa8); /* 8: dirty, staged, taken back by a read */
  EXPECT(stage_page(region, 8));
  EXPECT_EQ(dirty_bits(region), before | 0x180);
  EXPECT_EQ(touch(region, 8 * PAGE + 7), 0xa8);
  EXPECT_EQ(dirty_bits(region), before | 0x180);
  EXPECT_EQ(counter(&region->counters.steals), 2);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(stored_byte(file.fd, PAGE + 7), 0xa1);
  EXPECT_EQ(stored_byte(file.fd, PAGE + 8), 0xb1);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE + 7), 0xa2);
  EXPECT_EQ(stored_byte(file.fd, 3 * PAGE + 7), 0xa3);
  EXPECT_EQ(stored_byte(file.fd, 5 * PAGE - 50), 0xa5);
  EXPECT_EQ(stored_byte(file.fd, 5 * PAGE + 49), 0xa5);
  EXPECT_EQ(stored_byte(file.fd, 5 * PAGE + 50), pattern(5 * PAGE + 50));
  EXPECT_EQ(stored_byte(file.fd, 7 * PAGE + 7), 0xa7);
  EXPECT_EQ(stored_byte(file.fd, 8 * PAGE + 7), 0xa8);
  EXPECT_EQ(stored_byte(file.fd, 9 * PAGE), pattern(9 * PAGE));
  poke(region, 8 * PAGE + 9, 1); /* after a flush: dirty again */
  EXPECT_EQ(dirty_bits(region), 0x100);
  EXPECT_EQ(touch(region, 8 * PAGE + 7), 0xa8);
  close_file(&file);
}

/* Pages of 64 KiB: a write dirties all of one; the last has a part of the store, those behind it none. */
static void large_pages(void) {
  size_t size = 65536;
  uint64_t stored = 5 * size + 1000;
  file_t file = open_file(9 * size - 5, stored, 0, OPTIONS(.page_size = size));
  pf_region_t *region = file.region;
  EXPECT_EQ(first_difference(region, 0, 9 * size - 5, 0, stored), 9 * size - 5);
  EXPECT_EQ(dirty_bits(region), 0);
  poke(region, 2 * size + 40000, 0x11); /* one of its sixteen */
  EXPECT_EQ(dirty_bits(region), 4);
  EXPECT(stage_page(region, 2));
  EXPECT_EQ(dirty_bits(region), 4);
  EXPECT_EQ(touch(region, 2 * size + 40000), 0x11);
  EXPECT_EQ(touch(region, 3 * size - 1), pattern(3 * size - 1));
  poke(region, 5 * size + 2000, 0x22); /* behind the store's end, in its last page */
  EXPECT_EQ(dirty_bits(region), 0x24);
  poke(region, 6 * size + 1, 0x33); /* wholly behind it */
  EXPECT_EQ(dirty_bits(region), 0x24);
  poke(region, 5 * size + 999, 0x44);
  EXPECT_EQ(dirty_in(region, 5, 9).pages, 1);
  EXPECT_EQ(dirty_in(region, 6, 9).pages, 0);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(file_length(file.fd), stored); /* the file has not grown */
  EXPECT_EQ(stored_byte(file.fd, 2 * size + 40000), 0x11);
  EXPECT_EQ(stored_byte(file.fd, 5 * size + 999), 0x44);
  EXPECT_EQ(stored_byte(file.fd, 0), pattern(0));
  EXPECT_EQ(counter(&region->counters.bytes_written), size + 1000);
  EXPECT_EQ(touch(region, 5 * size + 2000), 0x22);
  EXPECT_EQ(release(region, 0, 9) >= 5 * size, true);
  EXPECT_EQ(touch(region, 6 * size + 1), 0x33); /* there is nowhere to write it, so it is kept */
  EXPECT_EQ(touch(region, 5 * size + 999), 0x44);
  close_file(&file);
}

/* --- flushing in two phases ----------------------------------------------------------------------------------------------------------------- */

static void failing_writes(void) {
  static const int errnos[] = {EIO, ENOSPC, EDQUOT, EFBIG, EROFS, EBADF};
  for (int pass = 0; pass < 4; pass++) {
    file_t file = open_file(40 * PAGE, 40 * PAGE, 0, OPTIONS());
    pf_region_t *region = file.region;
    for (uint64_t page = 1; page < 40; page += 10) { /* four runs */
      poke(region, page * PAGE, (uint8_t)(page + 100));
      poke(region, (page + 1) * PAGE, (uint8_t)(page + 100));
    }
    uint64_t dirty = dirty_bits(region);
    let_writes_fail(errnos[pass], pass);
    pf_why_t why = flush_why(region, 0, 40);
    EXPECT_EQ(why.code, PF_E_WRITE);
    EXPECT_EQ(why.err, errnos[pass]);
    EXPECT_EQ(dirty_bits(region), dirty); /* those that were written, too */
    poke(region, 1 * PAGE + 1, 77);      /* after it was written */
    EXPECT_EQ(flush_all(region), PF_E_WRITE);
    EXPECT_EQ(dirty_bits(region), dirty);
    let_writes_fail(0, 0);
    EXPECT_EQ(flush_all(region), PF_OK);
    EXPECT_EQ(dirty_bits(region), 0);
    EXPECT_EQ(stored_byte(file.fd, PAGE + 1), 77);
    for (uint64_t page = 1; page < 40; page += 10) {
      EXPECT_EQ(stored_byte(file.fd, page * PAGE), page + 100);
    }
    close_file(&file);
  }
}

/* Another one that is as long: only a look tells. What was dirty stays so. */
static void file_put_in_its_place(void) {
  char path[64], other[64];
  make_path(path);
  make_path(other);
  write_file(path, 0, 64 * PAGE);
  write_file(other, 0, 64 * PAGE);
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .fd = open(path, O_RDWR | O_CLOEXEC), .path = strdup(path)};
  must(source.fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "a file");
  pf_region_t *region = open_region(the_backend, source, 64 * PAGE, (pf_region_options_t){.writable = true, .store_length = 64 * PAGE});
  for (uint64_t page = 0; page < 64; page += 2) {
    poke(region, page * PAGE, 1);
  }
  must(rename(other, path) == 0, "a rename");
  uint64_t made = atomic_load(&writes_made), synced = atomic_load(&syncs_made);
  EXPECT_EQ(flush_all(region), PF_E_CHANGED);
  EXPECT_EQ(atomic_load(&writes_made), made);
  EXPECT_EQ(atomic_load(&syncs_made), synced);
  EXPECT_EQ(dirty_bits(region), 0x5555555555555555ULL);
  unlink(path);
  EXPECT(close_region(region));
}

static pf_region_t *renamed_region;
static char renamed_from[64], renamed_to[64];

static void rename_in_between(pf_job_t *job) {
  if (atomic_load(&job->pages_done) == 3) {
    must(rename(renamed_from, renamed_to) == 0, "a rename");
  }
}

/* Few writes after the last look: the one before the sync sees it. */
static void file_put_in_its_place_during_a_flush(void) {
  make_path(renamed_to);
  make_path(renamed_from);
  write_file(renamed_to, 0, 64 * PAGE);
  write_file(renamed_from, 0, 64 * PAGE);
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .fd = open(renamed_to, O_RDWR | O_CLOEXEC), .path = strdup(renamed_to)};
  must(source.fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "a file");
  renamed_region = open_region(the_backend, source, 64 * PAGE, (pf_region_options_t){.writable = true, .store_length = 64 * PAGE});
  for (uint64_t page = 0; page < 10; page += 2) {
    poke(renamed_region, page * PAGE, 1);
  }
  flushing_t flush = {.job = {.region = renamed_region, .end = 64, .kind = PF_JOB_FLUSH, .progress = rename_in_between, .done = on_flush_done}};
  uint64_t synced = atomic_load(&syncs_made);
  must(pf_loader_submit(&flush.job) == 0, "a flush");
  EXPECT_EQ(end_flush(&flush), PF_E_CHANGED);
  EXPECT_EQ(atomic_load(&syncs_made), synced);
  EXPECT_EQ(dirty_bits(renamed_region), 0x155);
  unlink(renamed_to);
  EXPECT(close_region(renamed_region));
}

static void failing_sync(void) {
  file_t file = open_file(8 * PAGE, 8 * PAGE, 0, OPTIONS());
  pf_region_t *region = file.region;
  poke(region, PAGE, 1);
  poke(region, 3 * PAGE, 1);
  atomic_store(&sync_errno, EIO);
  pf_why_t why = flush_why(region, 0, 8);
  EXPECT_EQ(why.code, PF_E_SYNC);
  EXPECT_EQ(why.err, EIO);
  EXPECT_EQ(dirty_bits(region), 0xa);
  EXPECT_EQ(flush_pages(region, 5, 6), PF_E_SYNC); /* nothing of it is dirty, but it is owed */
  atomic_store(&sync_errno, 0);
  uint64_t syncs = atomic_load(&syncs_made), written = atomic_load(&writes_made);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(atomic_load(&syncs_made), syncs + 1);
  EXPECT_EQ(atomic_load(&writes_made), written + 2); /* again: a file that said EIO may have forgotten them */
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(atomic_load(&syncs_made), syncs + 1); /* nothing is owed any more */
  close_file(&file);
}

/* A write that lands while the store is being written. */
static pf_region_t *poked_region;

static void poke_in_between(pf_job_t *job) {
  (void)job;
  poke(poked_region, 2 * PAGE + 1, 99);
}

static void written_during_flush(void) {
  file_t file = open_file(8 * PAGE, 8 * PAGE, 0, OPTIONS());
  pf_region_t *region = poked_region = file.region;
  poke(region, 2 * PAGE, 1);
  flushing_t flush = {.job = {.region = region, .end = 8, .kind = PF_JOB_FLUSH, .done = on_flush_done, .progress = poke_in_between}};
  must(pf_loader_submit(&flush.job) == 0, "a flush");
  EXPECT_EQ(end_flush(&flush), PF_OK);
  EXPECT_EQ(dirty_bits(region), 4);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE), 1);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE + 1), pattern(2 * PAGE + 1));
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE + 1), 99);
  EXPECT_EQ(dirty_bits(region), 0);
  close_file(&file);
}

static void flush_of_a_range(void) {
  file_t file = open_file(16 * PAGE, 16 * PAGE, 0, OPTIONS());
  pf_region_t *region = file.region;
  for (uint64_t page = 0; page < 16; page += 2) {
    poke(region, page * PAGE, 200);
  }
  EXPECT_EQ(flush_pages(region, 3, 9), PF_OK); /* 4, 6 and 8 */
  EXPECT_EQ(dirty_bits(region), 0x5405);
  EXPECT_EQ(stored_byte(file.fd, 8 * PAGE), 200);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE), pattern(2 * PAGE));
  EXPECT_EQ(flush_pages(region, 3, 3), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0x5405);
  close_file(&file);
}

/* --- discarding ------------------------------------------------------------------------------------------------------------------------------- */

static void discard_in_every_state(void) {
  file_t file = open_file(16 * PAGE, 10 * PAGE, 0, OPTIONS(.unreadable_zero = true));
  pf_region_t *region = file.region;
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE)); /* 1: clean */
  poke(region, 2 * PAGE, 9);                     /* 2: dirty */
  poke(region, 3 * PAGE, 9);                     /* 3: staged dirty */
  EXPECT(stage_page(region, 3));
  EXPECT_EQ(touch(region, 4 * PAGE), pattern(4 * PAGE)); /* 4: staged clean */
  EXPECT(stage_page(region, 4));
  poke(region, 5 * PAGE, 9); /* 5: dirty and pinned */
  EXPECT_EQ(pf_pin_add(region, 5, 6), 0);
  poke(region, 6 * PAGE, 9); /* 6: written by a flush that failed afterwards */
  let_writes_fail(EIO, 0);
  EXPECT_EQ(flush_pages(region, 6, 7), PF_E_WRITE);
  let_writes_fail(0, 0);
  poke(region, 12 * PAGE, 9); /* 12: behind the store's end */
  poke(region, 13 * PAGE, 9); /* 13: the same, staged */
  EXPECT(stage_page(region, 13));
  EXPECT_EQ(dirty_bits(region), 0x6c);
  EXPECT(discard(region, 0, 16)); /* 0: absent */
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(state_of(region, 1), PF_PRESENT);
  EXPECT_EQ(state_of(region, 2), PF_ABSENT);
  EXPECT_EQ(state_of(region, 3), PF_ABSENT);
  EXPECT_EQ(state_of(region, 4), PF_STAGED);
  EXPECT_EQ(state_of(region, 5), PF_PRESENT); /* goes when it is unpinned */
  EXPECT_EQ(state_of(region, 6), PF_ABSENT);
  EXPECT_EQ(touch(region, 12 * PAGE), 0);
  EXPECT_EQ(touch(region, 13 * PAGE), 0);
  EXPECT_EQ(touch(region, 5 * PAGE), 9);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(stored_byte(file.fd, 5 * PAGE), pattern(5 * PAGE));
  pf_pin_remove(region, 5, 6);
  EXPECT_EQ(first_difference(region, 0, 10 * PAGE, 0, 10 * PAGE), 10 * PAGE);
  EXPECT_EQ(dirty_bits(region), 0);
  for (uint64_t page = 1; page < 7; page++) { /* nothing of an earlier life is left */
    poke(region, page * PAGE, (uint8_t)(50 + page));
  }
  EXPECT_EQ(dirty_bits(region), 0x7e);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(stored_byte(file.fd, 5 * PAGE), 55);
  EXPECT_EQ(counter(&region->counters.staged), 0);
  close_file(&file);
}

/* --- release, invalidate, reset ------------------------------------------------------------------------------------------------------------------ */

static void release_and_invalidate(void) {
  file_t file = open_file(16 * PAGE, 16 * PAGE, 0, OPTIONS());
  pf_region_t *region = file.region;
  EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 0, 16 * PAGE), 16 * PAGE);
  for (uint64_t page = 2; page < 16; page += 4) { /* 2 6 10 14 */
    poke(region, page * PAGE, 9);
  }
  EXPECT(stage_page(region, 6));
  EXPECT(stage_page(region, 7));
  EXPECT_EQ(release(region, 0, 16), 12 * PAGE);
  for (uint64_t page = 0; page < 16; page++) {
    EXPECT_EQ(state_of(region, page), page == 6 ? PF_STAGED : page % 4 == 2 ? PF_PRESENT : PF_ABSENT);
  }
  EXPECT_EQ(dirty_bits(region), 0x4444);
  uint8_t changed = 111;
  must(syscall(SYS_pwrite64, file.fd, &changed, 1, (off_t)(3 * PAGE)) == 1 && syscall(SYS_pwrite64, file.fd, &changed, 1, (off_t)(2 * PAGE)) == 1,
       "a change");
  EXPECT_EQ(pf_source_rebase(&region->source), 0);
  EXPECT_EQ(touch(region, 4 * PAGE), pattern(4 * PAGE));
  EXPECT(invalidate(region, 0, 16));
  EXPECT_EQ(dirty_bits(region), 0x4444);
  EXPECT_EQ(touch(region, 3 * PAGE), 111);
  EXPECT_EQ(touch(region, 2 * PAGE), 9); /* ours wins */
  EXPECT_EQ(touch(region, 6 * PAGE), 9);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(stored_byte(file.fd, 2 * PAGE), 9);
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT(invalidate(region, 0, 16));
  EXPECT_EQ(state_of(region, 2), PF_ABSENT);
  close_file(&file);
}

static void reset_in_every_state(void) {
  file_t file = open_file(8 * PAGE, 8 * PAGE, 0, OPTIONS());
  pf_region_t *region = file.region;
  bool faults = region->track == PF_TRACK_FAULT;
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  poke(region, 2 * PAGE, 9);
  poke(region, 3 * PAGE, 9);
  EXPECT(stage_page(region, 3));
  uint64_t before = counter(&region->counters.write_faults);
  poke(region, 2 * PAGE + 1, 9);
  EXPECT_EQ(counter(&region->counters.write_faults), before);
  reset_detection(region, 0, 8);
  EXPECT_EQ(dirty_bits(region), 0xc);
  poke(region, 2 * PAGE + 2, 9);
  EXPECT_EQ(counter(&region->counters.write_faults), before + faults);
  poke(region, 3 * PAGE + 2, 9);
  EXPECT_EQ(counter(&region->counters.write_faults), before + 2 * (uint64_t)faults);
  EXPECT_EQ(state_of(region, 0), PF_ABSENT);
  EXPECT_EQ(dirty_bits(region), 0xc);
  reset_detection(region, 0, 8);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0);
  EXPECT_EQ(stored_byte(file.fd, 3 * PAGE + 2), 9);
  close_file(&file);
}

/* --- eviction --------------------------------------------------------------------------------------------------------------------------------------- */

static void eviction_writes_back(void) {
  file_t file = open_file(64 * PAGE, 64 * PAGE, 8, OPTIONS());
  pf_region_t *region = file.region;
  for (uint64_t page = 0; page < 64; page++) {
    poke(region, page * PAGE + 5, (uint8_t)(page + 1));
    pf_budget_numbers_t numbers;
    pf_budget_numbers(file.budget, &numbers);
    EXPECT(numbers.used <= 8 * PAGE);
  }
  EXPECT(counter(&region->counters.write_backs) >= 56);
  EXPECT(dirty_in(region, 0, 64).pages <= 8);
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(touch(region, page * PAGE + 5), page + 1);
    EXPECT_EQ(touch(region, page * PAGE + 6), pattern(page * PAGE + 6));
  }
  EXPECT_EQ(dirty_bits(region), 0); /* all were evicted to read the others */
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(stored_byte(file.fd, page * PAGE + 5), page + 1);
  }
  uint64_t syncs = atomic_load(&syncs_made);
  EXPECT_EQ(flush_pages(region, 0, 1), PF_OK); /* nothing is dirty, but eviction has written */
  EXPECT_EQ(atomic_load(&syncs_made), syncs + 1);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(atomic_load(&syncs_made), syncs + 1);
  close_file(&file);
}

/* What is behind the store's end is kept, however little room there is, and does not stop what can go. */
static void behind_the_end_stays(void) {
  file_t file = open_file(64 * PAGE, 60 * PAGE, 8, OPTIONS());
  pf_region_t *region = file.region;
  poke(region, 62 * PAGE + 5, 42);
  for (uint64_t page = 0; page < 60; page++) {
    poke(region, page * PAGE + 5, (uint8_t)(page + 1));
  }
  EXPECT_EQ(touch(region, 62 * PAGE + 5), 42);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(file_length(file.fd), 60 * PAGE);
  for (uint64_t page = 0; page < 60; page++) {
    EXPECT_EQ(stored_byte(file.fd, page * PAGE + 5), page + 1);
  }
  close_file(&file);
}

/* Nothing can be written: who needs room is told so at its deadline, nothing is lost, and then it heals. */
static void never_accepts(void) {
  file_t file = open_file(32 * PAGE, 32 * PAGE, 8, OPTIONS(.timeout_ms = 400));
  pf_region_t *region = file.region;
  for (uint64_t page = 0; page < 8; page++) {
    poke(region, page * PAGE + 5, (uint8_t)(page + 1));
  }
  let_writes_fail(ENOSPC, 0);
  uint64_t started = pf_now_ns();
  pf_why_t why = {0};
  EXPECT(!ensure(region, 20, 400, false, &why));
  EXPECT_EQ(why.code, PF_E_WRITE);
  EXPECT_EQ(why.err, ENOSPC);
  EXPECT(pf_now_ns() - started >= 400 * MS && pf_now_ns() - started < 400 * MS + SOON);
  EXPECT_EQ(state_of(region, 20), PF_ABSENT);
  EXPECT_EQ(dirty_bits(region), 0xff);
  pf_failure_t failure;
  EXPECT(pf_failure_next(atomic_load(&region->id), 0, &failure) && failure.why.code == PF_E_WRITE);
  for (uint64_t page = 0; page < 8; page++) { /* in memory, or staged: no room is needed to take them back */
    EXPECT_EQ(touch(region, page * PAGE + 5), page + 1);
  }
  uint8_t byte = 1;
  EXPECT_EQ(copy_in(region, 25 * PAGE, &byte, 1), PF_E_WRITE);
  let_writes_fail(0, 0);
  poke(region, 20 * PAGE + 5, 21);
  EXPECT_EQ(flush_all(region), PF_OK);
  for (uint64_t page = 0; page < 8; page++) {
    EXPECT_EQ(stored_byte(file.fd, page * PAGE + 5), page + 1);
  }
  EXPECT_EQ(stored_byte(file.fd, 20 * PAGE + 5), 21);
  close_file(&file);
}

/* A page that was held while eviction came by is not forgotten by it. */
static void held_while_staged(void) {
  file_t file = open_file(64 * PAGE, 64 * PAGE, 8, OPTIONS());
  pf_region_t *region = file.region;
  poke(region, 5, 9);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  EXPECT(stage_page(region, 0));
  EXPECT(stage_page(region, 1));
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_pages_hold(region, 0, 2), 0);
  pf_restore_signals(&before);
  for (uint64_t page = 10; page < 30; page++) {
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
  }
  EXPECT_EQ(state_of(region, 0), PF_STAGED);
  pf_mask_signals(&before);
  pf_pages_unhold(region, 0, 2);
  pf_restore_signals(&before);
  for (uint64_t page = 30; page < 50; page++) {
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
  }
  EXPECT_EQ(state_of(region, 0), PF_ABSENT);
  EXPECT_EQ(state_of(region, 1), PF_ABSENT);
  EXPECT_EQ(stored_byte(file.fd, 5), 9);
  close_file(&file);
}

/* --- many threads, few pages ---------------------------------------------------------------------------------------------------------------------- */

#define CROWD 8
#define CROWD_PAGES 64

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t number, rounds;
  uint8_t last[CROWD_PAGES];
} writer_t;

static void *write_everywhere(void *data) {
  writer_t *writer = data;
  uint64_t seed = writer->number * 7919 + 1;
  for (uint64_t i = 0; i < writer->rounds; i++) {
    uint64_t page = random_next(&seed) % CROWD_PAGES, at = page * PAGE + writer->number;
    uint8_t value = (uint8_t)(random_next(&seed) | 1);
    EXPECT_EQ(touch(writer->region, at), writer->last[page]);
    if (i % 5 == 0) {
      EXPECT_EQ(copy_in(writer->region, at, &value, 1), PF_OK);
    } else {
      poke(writer->region, at, value);
    }
    writer->last[page] = value;
  }
  return NULL;
}

static void a_crowd_and_four_pages(void) {
  static writer_t writers[CROWD];
  file_t file = open_file(CROWD_PAGES * PAGE, CROWD_PAGES * PAGE, 4, OPTIONS());
  for (uint64_t i = 0; i < CROWD; i++) {
    writers[i] = (writer_t){.region = file.region, .number = i, .rounds = SLOW ? 100 : 400};
    for (uint64_t page = 0; page < CROWD_PAGES; page++) {
      writers[i].last[page] = pattern(page * PAGE + i);
    }
    must(pthread_create(&writers[i].thread, NULL, write_everywhere, &writers[i]) == 0, "a thread");
  }
  for (uint64_t i = 0; i < CROWD; i++) {
    pthread_join(writers[i].thread, NULL);
  }
  EXPECT_EQ(flush_all(file.region), PF_OK);
  EXPECT_EQ(dirty_bits(file.region), 0);
  for (uint64_t i = 0; i < CROWD; i++) {
    for (uint64_t page = 0; page < CROWD_PAGES; page++) {
      EXPECT_EQ(stored_byte(file.fd, page * PAGE + i), writers[i].last[page]);
    }
  }
  close_file(&file);
}

/* ------------------------------------------------------------------------------------------------------------------------------------------------- */

static void all(void) {
  test_here("each way of writing makes its page dirty, and no other", state_table);
  test_here("a large page is dirty as one, and nothing behind the store's end is", large_pages);
  test_here("a flush whose writes fail leaves everything dirty, and can be repeated", failing_writes);
  test_here("a flush whose sync fails leaves everything dirty and is owed", failing_sync);
  test_here("nothing is written to a file that was put in the place of the mapped one", file_put_in_its_place);
  test_here("a file put in the place of the mapped one during a flush is noticed before the sync", file_put_in_its_place_during_a_flush);
  test_here("a write during a flush leaves its page dirty", written_during_flush);
  test_here("a flush of a range leaves the others", flush_of_a_range);
  test_here("discarding forgets what was written, in every state of a page", discard_in_every_state);
  test_here("release and invalidate pass over dirty pages", release_and_invalidate);
  test_here("after a reset the next write is seen again and what is dirty stays dirty", reset_in_every_state);
  test_here("eviction writes dirty pages back, and the next flush syncs", eviction_writes_back);
  test_here("what is behind the store's end stays in memory", behind_the_end_stays);
  test_here("a store that cannot be written fails who needs room, and loses nothing", never_accepts);
  test_here("a staged page that was held when eviction came by is evicted later", held_while_staged);
  test_here("many threads write with room for four pages", a_crowd_and_four_pages);
}

static void no_child(const char *name) { (void)name; }

int main(int count, char **arguments) { return run_modes(count, arguments, all, no_child); }
