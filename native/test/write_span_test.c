/* sanitizers: address,thread,none */
/*
 * Flushes of pages that lie scattered: several runs are protected together, and the clean pages between them with them. All of it is written, nothing else is, in
 * few calls; and whoever asks what is dirty meanwhile misses no page and is told of none that nobody wrote.
 */
#include "write_support.h"

#include <stdarg.h>
#include <sys/ioctl.h>

static _Atomic uint64_t protecting_calls, pages_stored;
static _Atomic int sync_errno;
/* What a test wants to happen around a call that protects what was written. */
static void (*_Atomic before_arming)(void), (*_Atomic after_arming)(void);

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  bool protects = (request >> 8 & 0xff) == 0xaa && (request & 0xff) == 6;
  bool arms = (request >> 8 & 0xff) == 'f' && (request & 0xff) == 16 && (((struct pf_pm_scan_arg *)argument)->flags & PF_PM_SCAN_WP_MATCHING);
  atomic_fetch_add(&protecting_calls, protects || arms);
  void (*before)(void) = arms ? atomic_exchange(&before_arming, NULL) : NULL, (*after)(void) = arms ? atomic_exchange(&after_arming, NULL) : NULL;
  if (before != NULL) {
    before();
  }
  int result = (int)syscall(SYS_ioctl, fd, request, argument);
  if (after != NULL) {
    after();
  }
  return result;
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t offset) {
  atomic_fetch_add(&pages_stored, (len + PAGE - 1) / PAGE);
  return syscall(SYS_pwrite64, fd, from, len, offset);
}

int fdatasync(int fd) {
  (void)fd;
  errno = atomic_load(&sync_errno);
  return errno == 0 ? 0 : -1;
}

static pf_region_t *open_loaded(uint64_t pages, uint64_t present, int *fd) {
  pf_region_t *region = open_region(the_backend, writable_file(pages * PAGE, fd), pages * PAGE, OPTIONS(.writable = true, .store_length = pages * PAGE));
  EXPECT_EQ(region->track, the_track);
  for (uint64_t page = 0; page < present; page++) {
    touch(region, page * PAGE);
  }
  return region;
}

/* --- scattered ------------------------------------------------------------------------------------------------------------------ */

#define SCATTERED 2000

static bool is_written(uint64_t page) { return page % 7 == 1 || (page > 900 && page < 1100) || (page > 1500 && page % 97 == 0); }

static void scattered(void) {
  int fd;
  pf_region_t *region = open_loaded(SCATTERED, SCATTERED - 300, &fd); /* the last are missing */
  uint64_t written = 0, runs = 0;
  for (uint64_t page = 0; page < SCATTERED; page++) {
    if (is_written(page)) {
      poke(region, page * PAGE + 9, (uint8_t)(page | 1));
      written++;
      runs += page == 0 || !is_written(page - 1);
    }
  }
  EXPECT(stage_page(region, 8));   /* dirty */
  EXPECT(stage_page(region, 9));   /* clean */
  EXPECT(discard(region, 15, 16)); /* dirty, and no longer */
  poke(region, 22 * PAGE, 200);
  EXPECT_EQ(dirty_in(region, 0, SCATTERED).pages, written - 1);
  atomic_store(&protecting_calls, 0);
  atomic_store(&pages_stored, 0);
  EXPECT_EQ(flush_pages(region, 0, SCATTERED), PF_OK);
  EXPECT_EQ(atomic_load(&pages_stored), written - 1);
  EXPECT(the_track != PF_TRACK_ASYNC || atomic_load(&protecting_calls) < runs / 4);
  EXPECT_EQ(dirty_in(region, 0, SCATTERED).pages, 0);
  for (uint64_t page = 0; page < SCATTERED; page++) {
    bool there = is_written(page) && page != 15;
    EXPECT_EQ(stored_byte(fd, page * PAGE + 9), there ? (uint8_t)(page | 1) : pattern(page * PAGE + 9));
  }
  for (uint64_t page = 0; page < SCATTERED; page += 3) { /* protected all of them: each write is seen again */
    poke(region, page * PAGE + 11, 1);
  }
  EXPECT_EQ(dirty_in(region, 0, SCATTERED).pages, (SCATTERED + 2) / 3);
  EXPECT_EQ(flush_pages(region, 0, SCATTERED), PF_OK);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  EXPECT_EQ(stored_byte(fd, 1500 * PAGE + 11), 1);
  EXPECT(close_region(region));
  close(fd);
}

/* --- between the question and the answer ------------------------------------------------------------------------------------------ */

static pf_region_t *between_region;
static _Atomic int armed;

static void write_between(void) { poke(between_region, 12 * PAGE + 1, 99); }

static void look_away(void) {
  atomic_store(&armed, 1);
  pf_sleep_until(pf_now_ns() + 30 * MS);
}

/* A clean page between two runs is written when the flush has asked what is dirty already. It is protected with the others, so it is written out with them; and who asks
 * while the kernel has forgotten and the page is not marked yet has to wait. */
static void written_in_between(void) {
  int fd;
  pf_region_t *region = between_region = open_loaded(32, 32, &fd);
  poke(region, 10 * PAGE, 1);
  poke(region, 14 * PAGE, 1);
  atomic_store(&armed, 0);
  atomic_store(&before_arming, write_between);
  atomic_store(&after_arming, look_away);
  atomic_store(&sync_errno, EIO);
  flushing_t flush;
  begin_flush(&flush, region, 0, 32);
  while (the_track == PF_TRACK_ASYNC && !atomic_load(&armed)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
  EXPECT_EQ(dirty_bits(region), the_track == PF_TRACK_ASYNC ? 0x5400 : 0x4400);
  EXPECT_EQ(end_flush(&flush), PF_E_SYNC);
  EXPECT_EQ(dirty_bits(region), the_track == PF_TRACK_ASYNC ? 0x5400 : 0x4400);
  EXPECT_EQ(stored_byte(fd, 12 * PAGE + 1), the_track == PF_TRACK_ASYNC ? 99 : pattern(12 * PAGE + 1));
  atomic_store(&sync_errno, 0);
  EXPECT_EQ(flush_pages(region, 0, 32), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0);
  atomic_store(&before_arming, NULL);
  atomic_store(&after_arming, NULL);
  EXPECT(close_region(region));
  close(fd);
}

/* --- asked in the middle of it -------------------------------------------------------------------------------------------------- */

#define ASKED 1024

static _Atomic int stop;

static void *flush_on(void *data) {
  while (!atomic_load(&stop)) {
    EXPECT_EQ(flush_pages(data, 0, ASKED), PF_E_SYNC);
  }
  return NULL;
}

/* No flush ends well, so what was written once is dirty from then on, and odd pages never are. */
static void asked_meanwhile(void) {
  uint64_t seed = pf_now_ns() | 1, end = pf_now_ns() + (SLOW ? 700 : 1500) * MS;
  unsigned missed = 0, made_up = 0;
  for (int round = 0; pf_now_ns() < end || round == 0; round++) {
    int fd;
    pf_region_t *region = open_loaded(ASKED, ASKED, &fd);
    pthread_t flusher;
    atomic_store(&stop, 0);
    atomic_store(&sync_errno, EIO);
    poke(region, 0, 1); /* so that each flush has something to sync */
    must(pthread_create(&flusher, NULL, flush_on, region) == 0, "a thread");
    for (uint64_t i = 0, page = random_next(&seed) % ASKED & ~1ULL; i < ASKED / 2; i++, page = (page + 386) % ASKED) { /* each even page once */
      poke(region, page * PAGE + 5, 7);
      missed += dirty_in(region, page, page + 1).pages != 1;
      made_up += dirty_in(region, page + 1, page + 2).pages != 0;
      uint64_t first = random_next(&seed) % ASKED & ~7ULL;
      dirty_t eight = dirty_in(region, first, first + 8);
      made_up += eight.pages > 4;
    }
    missed += dirty_in(region, 0, ASKED).pages < ASKED / 2;
    atomic_store(&stop, 1);
    pthread_join(flusher, NULL);
    made_up += dirty_in(region, 0, ASKED).pages != ASKED / 2;
    atomic_store(&sync_errno, 0);
    EXPECT_EQ(flush_pages(region, 0, ASKED), PF_OK);
    EXPECT_EQ(dirty_in(region, 0, ASKED).pages, 0);
    EXPECT(close_region(region));
    close(fd);
  }
  EXPECT_EQ(missed, 0);
  EXPECT_EQ(made_up, 0);
}

static void all(void) {
  test_here("scattered pages are flushed together, and nothing else is written", scattered);
  test_here("a page that is written between question and answer is flushed, and dirty throughout", written_in_between);
  test_here("whoever asks what is dirty during flushes misses nothing", asked_meanwhile);
}

static void no_child(const char *name) { (void)name; }

int main(int count, char **arguments) { return run_modes(count, arguments, all, no_child); }
