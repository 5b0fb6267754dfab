/*
 * The threads that page other processes: what guests read is compared byte by byte. The kernel's traps one by one: traps_test.c.
 */
#include "guests.h"

/* --- tests ---------------------------------------------------------------------------------------------------------------------- */

static void pages_and_holes(pf_backend_t backend) {
  (void)backend;
  int fd = memory_file("base", 8, 40, 0);
  pf_snapshot_t *snapshot = image(fd, -1);
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 8, 32), sum_expected(8, 32, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 8), sum_expected(0, 8, -1));
  pf_peer_view_t view = view_of(&paged);
  EXPECT_EQ(view.numbers.demand, 40);
  EXPECT_EQ(view.numbers.zero, 8);
  EXPECT_EQ(view.numbers.bytes_copied, 32 * PAGE);
  EXPECT_EQ(view.numbers.present, 40);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  close(fd);
}

static void layers(pf_backend_t backend) {
  (void)backend;
  int base = memory_file("base", 0, 64, 0), difference = memory_file("diff", 16, 20, 5);
  pf_snapshot_t *snapshot = image(base, difference);
  uint64_t bytes, count;
  pf_snapshot_extents(snapshot, &bytes, &count);
  EXPECT_EQ(bytes, PAGES * PAGE);
  EXPECT_EQ(count, 3);
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 16), sum_expected(0, 16, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 16, 4), sum_expected(16, 4, 5));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 20, 44), sum_expected(20, 44, 0));
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  close(base);
  close(difference);
}

static void given_back(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 8), sum_expected(0, 8, 0));
  EXPECT_EQ(told(&paged.guest, 0, REMOVE, 4, 8), 0); /* four that were there, four that never were */
  EXPECT_EQ(told(&paged.guest, 0, SUM, 4, 8), sum_expected(4, 8, -1));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 4), sum_expected(0, 4, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 12, 4), sum_expected(12, 4, 0));
  EXPECT_EQ(view_of(&paged).numbers.removed, 8);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* The storm: all the threads of the guest touch and give back at once. What is read is the file's, or zero where it was given back; never anything else. */
static void storm(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  bool removed[PAGES] = {false};
  uint64_t seed = 12345;
  for (int round = 0; round < (SLOW ? 60 : 300); round++) {
    uint64_t page = random_next(&seed) % (PAGES - 8);
    for (int i = 1; i < HANDS; i++) {
      ask(&paged.guest, i, TOUCH, page + (uint64_t)i, 1);
    }
    told(&paged.guest, 0, REMOVE, page, 2);
    removed[page] = removed[page + 1] = true;
    for (int i = 1; i < HANDS; i++) {
      EXPECT(answered(&paged.guest, i, 20000));
    }
    uint64_t sum = told(&paged.guest, 0, SUM, page, 1);
    EXPECT_EQ(sum, sum_expected(page, 1, -1));
  }
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT_EQ(told(&paged.guest, 0, SUM, page, 1), sum_expected(page, 1, removed[page] ? -1 : 0));
  }
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

static void cut_short(pf_backend_t backend) {
  (void)backend;
  pf_note_t note;
  int fd = memory_file("base", 0, 64, 0);
  pf_snapshot_t *snapshot = image(fd, -1);
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE), parked = page_guest(snapshot, true, false, EVENT_REMOVE);
  must(ftruncate(fd, (off_t)(32 * PAGE)) == 0, "shorter");
  ask(&paged.guest, 0, TOUCH, 40, 1);
  EXPECT(wait_note(paged.id, PF_PEER_PAGE_FAILED, &note));
  EXPECT_EQ(note.offset, 40 * PAGE);
  EXPECT_EQ(note.why.code, PF_E_SHORT);
  EXPECT_EQ(end_guest(&paged.guest, false), SIGKILL);
  EXPECT(wait_note(paged.id, PF_PEER_GONE, &note));
  EXPECT(pf_peers_remove(paged.id, true));
  close(paged.states);
  ask(&parked.guest, 0, TOUCH, 41, 1);
  EXPECT(wait_note(parked.id, PF_PEER_PAGE_FAILED, &note));
  EXPECT(!answered(&parked.guest, 0, 50));
  EXPECT_EQ(told(&parked.guest, 1, SUM, 3, 1), sum_expected(3, 1, 0));
  int whole = memory_file("again", 0, 64, 0);
  uint8_t bytes[4096];
  must(pread(whole, bytes, sizeof bytes, (off_t)(41 * PAGE)) == (ssize_t)sizeof bytes && ftruncate(fd, (off_t)(64 * PAGE)) == 0 &&
           pwrite(fd, bytes, sizeof bytes, (off_t)(41 * PAGE)) == (ssize_t)sizeof bytes,
       "as it was");
  EXPECT(pf_peers_retry(parked.id));
  EXPECT(answered(&parked.guest, 0, 20000));
  EXPECT_EQ(told(&parked.guest, 1, SUM, 41, 1), sum_expected(41, 1, 0));
  let_go(&parked);
  pf_snapshot_drop(snapshot);
  close(whole);
  close(fd);
}

static void recorded_and_replayed(pf_backend_t backend) {
  (void)backend;
  const uint64_t order[] = {9, 3, 60, 4, 12};
  uint32_t pages[8];
  double at[8];
  pf_note_t note;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, true, EVENT_REMOVE);
  for (size_t i = 0; i < 5; i++) {
    told(&paged.guest, 0, TOUCH, order[i], 1);
    told(&paged.guest, 0, TOUCH, order[i], 1);
  }
  EXPECT_EQ(pf_peers_trace(paged.id, 0, pages, at, 8), 5);
  for (size_t i = 0; i < 5; i++) {
    EXPECT_EQ(pages[i], order[i]);
    EXPECT(i == 0 || at[i] >= at[i - 1]);
  }
  let_go(&paged);
  paged_t again = page_guest(snapshot, false, true, EVENT_REMOVE);
  EXPECT_EQ(pf_peers_replay(again.id, pages, 5), 0);
  EXPECT(wait_note(again.id, PF_PEER_REPLAYED, &note));
  for (size_t i = 0; i < 5; i++) {
    EXPECT_EQ(told(&again.guest, 0, SUM, order[i], 1), sum_expected(order[i], 1, 0));
  }
  pf_peer_view_t view = view_of(&again);
  EXPECT_EQ(view.numbers.prefetched, 5);
  EXPECT_EQ(view.numbers.faults, 0);
  EXPECT_EQ(told(&again.guest, 0, REMOVE, 9, 1), 0); /* what was brought ahead can be given back, too */
  EXPECT_EQ(told(&again.guest, 0, SUM, 9, 1), sum_expected(9, 1, -1));
  let_go(&again);
  pf_snapshot_drop(snapshot);
}

/* Pages are brought ahead, by several threads, while others are given back: those stay zero, whatever was on its way. */
static void given_back_meanwhile(pf_backend_t backend) {
  (void)backend;
  uint32_t pages[PAGES];
  pf_note_t note;
  uint64_t seed = 4711;
  pf_snapshot_t *snapshot = whole_image();
  for (int round = 0; round < (SLOW ? 15 : 60); round++) {
    paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
    uint64_t page = random_next(&seed) % (PAGES - 8);
    for (uint32_t i = 0; i < PAGES; i++) { /* every other one first: runs of one page */
      pages[i] = i < PAGES / 2 ? 2 * i : 2 * (i - PAGES / 2) + 1;
    }
    ask(&paged.guest, 0, REMOVE, page, 4);
    EXPECT_EQ(pf_peers_replay(paged.id, pages, PAGES), 0);
    ask(&paged.guest, 1, TOUCH, (page + 8) % PAGES, 1);
    EXPECT(answered(&paged.guest, 0, 20000));
    EXPECT(answered(&paged.guest, 1, 20000));
    EXPECT(wait_note(paged.id, PF_PEER_REPLAYED, &note));
    for (uint64_t i = 0; i < PAGES; i++) {
      EXPECT_EQ(told(&paged.guest, 0, SUM, i, 1), sum_expected(i, 1, i >= page && i < page + 4 ? -1 : 0));
    }
    pf_peer_view_t view = view_of(&paged);
    EXPECT_EQ(view.numbers.removed, 4);
    EXPECT_EQ(view.numbers.present + view.numbers.ahead >= PAGES - 4, true);
    let_go(&paged);
  }
  pf_snapshot_drop(snapshot);
}

static void moved(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | EVENT_REMAP | EVENT_UNMAP);
  told(&paged.guest, 0, TOUCH, 5, 1);
  told(&paged.guest, 0, MOVE, 0, 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 64), sum_expected(0, 64, 0));
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* What a pager does that is killed with messages in its hand: it has read them, and that is all. */
static void read_and_die(int uffd, int states, size_t messages) {
  uint64_t bytes = PF_PEER_STATES_BYTES(PAGES);
  uint8_t *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, states, 0);
  must(mapped != MAP_FAILED, "states");
  struct pf_uffd_msg *journal = (struct pf_uffd_msg *)(void *)(mapped + bytes) - PF_PEER_MESSAGES;
  size_t got = 0;
  for (uint64_t end = pf_now_ns() + 20000 * MS; got < messages && pf_now_ns() < end; usleep(500)) {
    int64_t read = pf_uffd_read_now(uffd, journal + got, (PF_PEER_MESSAGES - got) * sizeof *journal);
    got += read > 0 ? (size_t)read / sizeof *journal : 0;
  }
  EXPECT_EQ(got, messages);
  munmap(mapped, bytes);
}

/* The pager before us has read messages and ends: with its states another one goes on. */
static void taken_over(pf_backend_t backend) {
  (void)backend;
  int fd = memory_file("base", 0, 64, 0);
  pf_snapshot_t *snapshot = image(fd, -1);
  paged_t paged = page_guest(snapshot, true, false, EVENT_REMOVE);
  int uffd = fcntl(paged.guest.uffd, F_DUPFD_CLOEXEC, 0), pidfd = fcntl(paged.guest.pidfd, F_DUPFD_CLOEXEC, 0);
  EXPECT_EQ(told(&paged.guest, 0, REMOVE, 2, 1), 0);
  must(ftruncate(fd, (off_t)(32 * PAGE)) == 0, "shorter");
  ask(&paged.guest, 0, TOUCH, 40, 1);
  pf_note_t note;
  EXPECT(wait_note(paged.id, PF_PEER_PAGE_FAILED, &note));
  EXPECT(pf_peers_remove(paged.id, false));
  pf_snapshot_drop(snapshot);
  close(fd);
  ask(&paged.guest, 1, TOUCH, 7, 1);
  EXPECT(!answered(&paged.guest, 1, 30));
  ask(&paged.guest, 2, REMOVE, 20, 2);
  read_and_die(uffd, paged.states, 2);
  EXPECT(answered(&paged.guest, 2, 20000)); /* to the process it is done */
  fd = memory_file("base", 0, 64, 0);
  snapshot = image(fd, -1);
  pf_area_t area = {paged.guest.base, paged.guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = uffd, .pidfd = pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = paged.states,
                               .adopted = true, .timeout_ns = 5000 * MS, .snapshot = snapshot};
  EXPECT_EQ(pf_peers_add(owner, &options, &paged.id), 0);
  EXPECT(answered(&paged.guest, 0, 20000));
  EXPECT(answered(&paged.guest, 1, 20000));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 3, 17), sum_expected(3, 17, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 22, 42), sum_expected(22, 42, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 2, 1), sum_expected(2, 1, -1));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 20, 2), sum_expected(20, 2, -1));
  EXPECT_EQ(view_of(&paged).numbers.present, 62);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  close(fd);
}

/* Somebody else keeps it: the end of its owner is not its end. With states of a byte a page alone it is served, too. */
static void supervised(pf_backend_t backend) {
  (void)backend;
  uint32_t mine;
  int fd = memory_file("base", 0, 64, 0), notes, states = memfd_create("states", MFD_CLOEXEC);
  pf_snapshot_t *snapshot = image(fd, -1);
  guest_t guest = start_guest(EVENT_REMOVE);
  int uffd = fcntl(guest.uffd, F_DUPFD_CLOEXEC, 0);
  uint64_t id;
  EXPECT_EQ(pf_peers_open(1, &mine, &notes), 0);
  pf_area_t area = {guest.base, guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = guest.uffd, .pidfd = guest.pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = states,
                               .supervised = true, .timeout_ns = 5000 * MS, .snapshot = snapshot};
  must(ftruncate(states, PAGES - 1) == 0, "states");
  EXPECT_EQ(pf_peers_add(mine, &options, &id), -EINVAL);
  must(ftruncate(states, PAGES) == 0, "states");
  EXPECT_EQ(pf_peers_add(mine, &options, &id), 0);
  EXPECT_EQ(told(&guest, 0, SUM, 0, 8), sum_expected(0, 8, 0));
  EXPECT_EQ(told(&guest, 0, REMOVE, 4, 1), 0);
  EXPECT_EQ(told(&guest, 0, SUM, 4, 1), sum_expected(4, 1, -1));
  pf_peers_close(mine);
  EXPECT_EQ(waitpid(guest.pid, NULL, WNOHANG), 0);
  EXPECT_EQ(told(&guest, 0, SUM, 0, 4), sum_expected(0, 4, 0)); /* what is there stays there */
  EXPECT_EQ(end_guest(&guest, true), SIGKILL);
  close(uffd);
  close(states);
  pf_snapshot_drop(snapshot);
  close(fd);
}

static void from_segment(pf_backend_t backend) {
  stored_t stored;
  pf_note_t note;
  open_stored(&stored, backend);
  const _Atomic uint64_t *reads = &stored.region->counters.store_reads;
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE), other = page_guest(stored.snapshot, false, false, EVENT_REMOVE);
  for (int i = 0; i < HANDS; i++) {
    ask(&paged.guest, i, TOUCH, (uint64_t)(i * 3), 1);
  }
  for (int i = 0; i < HANDS; i++) {
    EXPECT(answered(&paged.guest, i, 20000));
  }
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 32), sum_expected(0, 32, 0));
  uint64_t before = counter(reads);
  EXPECT_EQ(told(&other.guest, 0, SUM, 0, 32), sum_expected(0, 32, 0));
  EXPECT_EQ(counter(reads), before); /* once for all */
  uint32_t ahead[32];
  for (uint32_t i = 0; i < 32; i++) {
    ahead[i] = 32 + i;
  }
  EXPECT_EQ(pf_peers_replay(other.id, ahead, 32), 0);
  EXPECT(wait_note(other.id, PF_PEER_REPLAYED, &note));
  EXPECT_EQ(view_of(&other).numbers.prefetched, 32);
  EXPECT_EQ(told(&other.guest, 0, SUM, 32, 32), sum_expected(32, 32, 0));
  let_go(&paged);
  let_go(&other);
  close_stored(&stored);
}

/* A segment reads ahead for a guest as for a thread of its own: by itself, and only where the guest reads in order. */
static void read_in_order(pf_backend_t backend) {
  for (int in_order = 0; in_order < 2; in_order++) {
    pf_region_t *region = open_region(backend, file_source(PAGES * PAGE), PAGES * PAGE, OPTIONS(.readahead = -1));
    pf_snapshot_t *snapshot = NULL;
    EXPECT_EQ(pf_snapshot_of_segment(atomic_load(&region->id), PAGES * PAGE, &snapshot), 0);
    paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
    for (uint64_t i = 0; i < PAGES; i++) {
      uint64_t page = in_order ? i : (PAGES - 1 - i);
      EXPECT_EQ(told(&paged.guest, 0, SUM, page, 1), sum_expected(page, 1, 0));
    }
    uint64_t ahead = counter(&region->counters.readahead_pages);
    EXPECT(in_order ? ahead > PAGES / 2 : ahead == 0);
    EXPECT_EQ(counter(&region->counters.loads), PAGES);
    let_go(&paged);
    pf_snapshot_drop(snapshot);
    EXPECT(close_region(region));
  }
}

/* A thread waits for a page that is being loaded, and the memory moves under it. */
static void moved_while_fetched(pf_backend_t backend) {
  stored_t stored;
  open_stored(&stored, backend);
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE | EVENT_REMAP | EVENT_UNMAP);
  atomic_store(&held_back, 1);
  told(&paged.guest, 7, MOVE, 0, 0);
  ask(&paged.guest, 0, TOUCH, 5, 1);
  EXPECT(wait_faults(&paged, 1));
  told(&paged.guest, 7, MOVE_BACK, 0, 0);
  atomic_store(&held_back, 0);
  EXPECT_EQ(told(&paged.guest, 1, SUM, 5, 1), sum_expected(5, 1, 0)); /* at its new place; who asked at the old one is lost there, as without us */
  let_go(&paged);
  close_stored(&stored);
}

static void ends(pf_backend_t backend) {
  (void)backend;
  pf_note_t note;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(pf_snapshot_holders(snapshot), 2);
  EXPECT_EQ(end_guest(&paged.guest, true), SIGKILL);
  EXPECT(wait_note(paged.id, PF_PEER_GONE, &note));
  EXPECT(pf_peers_remove(paged.id, true));
  EXPECT(!pf_peers_remove(paged.id, true));
  close(paged.states);
  for (int i = 0; i < LONG_MS && pf_snapshot_holders(snapshot) > 1; i++) {
    usleep(1000);
  }
  EXPECT_EQ(pf_snapshot_holders(snapshot), 1);
  pf_snapshot_drop(snapshot);
}

static void bad_layers(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot;
  int fd = memory_file("base", 0, 64, 0), other = memory_file("other", 0, 64, 0);
  must(ftruncate(other, (off_t)(63 * PAGE)) == 0, "shorter");
  int fds[2] = {fd, other};
  unsigned descriptors = count_descriptors();
  EXPECT_EQ(pf_snapshot_of_files(fds, 2, PAGES * PAGE, &snapshot), -EINVAL);
  EXPECT_EQ(pf_snapshot_of_files(fds, 0, PAGES * PAGE, &snapshot), -EINVAL);
  EXPECT_EQ(count_descriptors(), descriptors);
  close(fd);
  close(other);
}

/* As for a huge page, whose bytes come from several places. */
static void put_together(pf_backend_t backend) {
  (void)backend;
  int base = memory_file("base", 0, 40, 0), difference = memory_file("diff", 16, 20, 5);
  pf_snapshot_t *snapshot = image(base, difference), *segment;
  uint64_t first = 8, count = PAGES - first, wrong = 0;
  uint8_t *bytes = malloc(count * PAGE);
  must(bytes != NULL, "room");
  memset(bytes, 0xff, count * PAGE);
  EXPECT_EQ(pf_snapshot_read(snapshot, first * PAGE, bytes, count * PAGE), 0);
  for (uint64_t i = 0; i < count * PAGE; i++) {
    uint64_t page = first + i / PAGE;
    uint8_t stored = (uint8_t)(pattern(first * PAGE + i) + (page >= 16 && page < 20 ? 5 : 0));
    wrong += bytes[i] != (page < 40 ? stored : 0);
  }
  EXPECT_EQ(wrong, 0);
  must(ftruncate(base, (off_t)(32 * PAGE)) == 0, "shorter");
  EXPECT_EQ(pf_snapshot_read(snapshot, first * PAGE, bytes, count * PAGE), -EFAULT);
  EXPECT_EQ(pf_snapshot_read(snapshot, first * PAGE, bytes, 24 * PAGE), 0);
  EXPECT_EQ(pf_snapshot_of_segment(1, PAGES * PAGE, &segment), 0);
  EXPECT_EQ(pf_snapshot_read(segment, 0, bytes, PAGE), -EINVAL);
  pf_snapshot_drop(segment);
  pf_snapshot_drop(snapshot);
  free(bytes);
  close(base);
  close(difference);
}

static void all(void) {
  test_on(PF_BACKEND_SIGNAL, "a guest reads the file's pages, and zeroes in its holes", pages_and_holes);
  test_on(PF_BACKEND_SIGNAL, "a later layer shadows an earlier one where it has data", layers);
  test_on(PF_BACKEND_SIGNAL, "what a guest gives back reads zero from then on", given_back);
  test_on(PF_BACKEND_SIGNAL, "eight threads touch while one gives back", storm);
  test_on(PF_BACKEND_SIGNAL, "a page that cannot be had kills the guest, or parks its thread until it can", cut_short);
  test_on(PF_BACKEND_SIGNAL, "pages are recorded in order of first touch, and replayed", recorded_and_replayed);
  test_on(PF_BACKEND_SIGNAL, "what is given back while pages are brought ahead stays zero", given_back_meanwhile);
  test_on(PF_BACKEND_SIGNAL, "memory that is moved takes its pages with it", moved);
  test_on(PF_BACKEND_SIGNAL, "another pager goes on where one has ended", taken_over);
  test_on(PF_BACKEND_SIGNAL, "a guest that somebody else keeps is not killed with its pager", supervised);
  test_each("pages of a segment are loaded once for all guests", from_segment);
  test_each("a guest that reads in order is read ahead for", read_in_order);
  test_on(PF_BACKEND_SIGNAL, "memory moves while a page of it is being loaded", moved_while_fetched);
  test_on(PF_BACKEND_SIGNAL, "a guest that ends is told of, and leaves nothing", ends);
  test_on(PF_BACKEND_SIGNAL, "layers of different lengths are no snapshot", bad_layers);
  test_on(PF_BACKEND_SIGNAL, "bytes of several layers, and of holes in all of them, are put together", put_together);
}

int main(int count, char **words) { return with_guests(count, words, 4, all); }
