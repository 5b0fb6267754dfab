/*
 * What the kernel does to whoever pages another process, trap by trap: each test fails when what the pager does against the trap is taken away. Some
 * pagers have threads (peers.h); the others are driven by hand, turn by turn, so that what is unread stays so until the test reads it.
 */
#include "guests.h"

/* --- a pager that is driven by hand ------------------------------------------------------------------------------------------ */

typedef struct {
  guest_t guest;
  pf_peer_t *peer;
  int states;
} held_t;

static unsigned tellings[4];
static bool (*on_fetch)(pf_peer_t *peer);

static void count_telling(pf_peer_t *peer, pf_peer_event_t event, uint64_t offset, pf_why_t why) {
  (void)peer;
  (void)offset;
  (void)why;
  tellings[event]++;
}

static bool fetch_by_hand(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns) {
  (void)page;
  (void)tid;
  (void)since_ns;
  return on_fetch(peer);
}

static const pf_peer_host_t by_hand = {count_telling, fetch_by_hand};

static held_t hold_guest(pf_snapshot_t *snapshot, uint64_t features) {
  held_t held = {.guest = start_guest(features), .states = memfd_create("states", MFD_CLOEXEC)};
  must(ftruncate(held.states, PF_PEER_STATES_BYTES(PAGES)) == 0, "states");
  pf_area_t area = {held.guest.base, held.guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = held.guest.uffd, .pidfd = held.guest.pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = held.states,
                               .timeout_ns = 60000 * MS, .snapshot = snapshot, .host = &by_hand};
  memset(tellings, 0, sizeof tellings);
  must(pf_peer_make(&options, &held.peer) == 0, "a peer");
  return held;
}

static void drop_guest(held_t *held) {
  end_guest(&held->guest, true);
  pf_peer_free(held->peer);
  close(held->states);
}

static uint64_t address_of(const held_t *held, uint64_t page) { return held->guest.base + page * PAGE; }

/* Faults that the kernel has and nobody has read. */
static bool wait_pending(const held_t *held, unsigned wanted) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", held->guest.uffd);
  for (uint64_t end = pf_now_ns() + 20000 * MS; pf_now_ns() < end; usleep(200)) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    const char *line = strstr(text, "pending:");
    if (line != NULL && strtoul(line + 8, NULL, 10) == wanted) {
      return true;
    }
  }
  return false;
}

/* A system call of this slot's has put an event there, and sleeps until it is read: the kernel refuses pages (`page` is one to try), and the thread is in a sleep
 * that only a kill would end. */
static bool wait_event(held_t *held, int slot, uint64_t page) {
  char path[64], text[512];
  for (uint64_t end = pf_now_ns() + 20000 * MS; pf_now_ns() < end; usleep(200)) {
    if (pf_uffd_zeropage(held->guest.uffd, address_of(held, page), PAGE, 0) != -EAGAIN) {
      continue;
    }
    snprintf(path, sizeof path, "/proc/%d/task/%u/stat", held->guest.pid, atomic_load(&held->guest.board->slots[slot].tid));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    const char *behind = strrchr(text, ')');
    if (behind != NULL && behind[1] == ' ' && behind[2] == 'D') {
      return true;
    }
  }
  return false;
}

/* Turns until the guest has answered. */
static bool turn_until_answered(held_t *held, int slot) {
  for (uint64_t end = pf_now_ns() + 20000 * MS; !answered(&held->guest, slot, 0) && pf_now_ns() < end; usleep(200)) {
    pf_peer_turn(held->peer);
  }
  return answered(&held->guest, slot, 0);
}

/* --- the traps -------------------------------------------------------------------------------------------------------------------- */

/* K1. The last reference goes while a thread waits: the kernel lets it go on with zeroes. */
static void last_reference(pf_backend_t backend) {
  stored_t stored;
  open_stored(&stored, backend);
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE);
  told(&paged.guest, 1, LET_GO, 0, 0);
  atomic_store(&held_back, 1);
  ask(&paged.guest, 0, TOUCH, 5, 1);
  EXPECT(wait_faults(&paged, 1));
  EXPECT(pf_peers_remove(paged.id, true));
  atomic_store(&held_back, 0); /* and the last reference with it */
  board_t *board = paged.guest.board;
  paged.guest.board = mmap(NULL, sizeof *board, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_EQ(end_guest(&paged.guest, false), SIGKILL);
  EXPECT_EQ(atomic_load(&board->slots[0].op), TOUCH); /* it never got anything */
  munmap(board, sizeof *board);
  close(paged.states);
  close_stored(&stored);
}

/* K2. Whoever gives memory back waits until that is read: it must be read while a store takes its time. */
static void nobody_waits_for_a_store(pf_backend_t backend) {
  stored_t stored;
  open_stored(&stored, backend);
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE);
  atomic_store(&held_back, 1);
  ask(&paged.guest, 0, TOUCH, 5, 1);
  EXPECT(wait_faults(&paged, 1));
  EXPECT_EQ(told(&paged.guest, 1, REMOVE, 10, 2), 0);
  ask(&paged.guest, 2, TOUCH, 6, 1);
  EXPECT(wait_faults(&paged, 2));
  EXPECT_EQ(told(&paged.guest, 1, REMOVE, 6, 1), 0); /* one that is on its way: what comes is not what is shown */
  atomic_store(&held_back, 0);
  EXPECT(answered(&paged.guest, 0, 20000));
  EXPECT(answered(&paged.guest, 2, 20000));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 5, 1), sum_expected(5, 1, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 6, 1), sum_expected(6, 1, -1));
  let_go(&paged);
  close_stored(&stored);
}

/* K3. While an event is unread, and a moment longer, no page can be put anywhere. */
static void refused_for_a_moment(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  held_t held = hold_guest(snapshot, EVENT_REMOVE);
  ask(&held.guest, 0, TOUCH, 30, 1);
  EXPECT(wait_pending(&held, 1));
  ask(&held.guest, 1, REMOVE, 20, 1);
  EXPECT(wait_event(&held, 1, 63));
  EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 40), 4), 0); /* not now: neither ahead … */
  pf_peer_fetched(held.peer, 30, 0, pf_now_ns() - 70000 * MS, NULL);    /* … nor for a fault, which waits, however long its page was on its way */
  EXPECT_EQ(held.peer->numbers.deferred, 1);
  EXPECT_EQ(held.peer->deferred_count, 1);
  EXPECT_EQ(held.peer->numbers.failures, 0);
  EXPECT(turn_until_answered(&held, 1));
  EXPECT(turn_until_answered(&held, 0));
  EXPECT_EQ(held.guest.board->slots[0].result, pattern(30 * PAGE));
  EXPECT_EQ(tellings[PF_PEER_PAGE_FAILED], 0);
  drop_guest(&held);
  pf_snapshot_drop(snapshot);
}

/* K4. A run that meets a page is EAGAIN with what was done before it, and EEXIST where it begins with one. */
static void run_meets_a_page(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  held_t held = hold_guest(snapshot, EVENT_REMOVE);
  uint8_t bytes[4096];
  fill_pattern(bytes, 5 * PAGE, sizeof bytes);
  EXPECT_EQ(pf_uffd_copy(held.guest.uffd, address_of(&held, 5), (uintptr_t)bytes, PAGE, 0), PAGE); /* unknown to the pager */
  EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 0), 16), 5);
  EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 5), 11), 1);
  EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 6), 10), 10);
  EXPECT_EQ(held.peer->numbers.prefetched, 15);
  EXPECT_EQ(held.peer->numbers.present, 16);
  EXPECT_EQ(told(&held.guest, 0, SUM, 0, 16), sum_expected(0, 16, 0)); /* with no fault: nobody would answer it */
  drop_guest(&held);
  pf_snapshot_drop(snapshot);
}

static held_t *busy;

/* Between the first fault of a turn and its second: the event that was read with them lets the guest go on, and from then on the kernel takes pages again. */
static bool wait_until_removed(pf_peer_t *peer) {
  (void)peer;
  return answered(&busy->guest, 2, 20000);
}

/* K5. Faults are handed out before events that are older. */
static void events_first(pf_backend_t backend) {
  stored_t stored;
  open_stored(&stored, backend);
  EXPECT_EQ(checked_byte(stored.region, 20 * PAGE), pattern(20 * PAGE)); /* loaded, unlike page 10 */
  held_t held = hold_guest(stored.snapshot, EVENT_REMOVE);
  busy = &held;
  on_fetch = wait_until_removed;
  ask(&held.guest, 0, TOUCH, 10, 1);
  EXPECT(wait_pending(&held, 1));
  ask(&held.guest, 1, TOUCH, 20, 1);
  EXPECT(wait_pending(&held, 2));
  ask(&held.guest, 2, REMOVE, 20, 1);
  EXPECT(wait_event(&held, 2, 63));
  EXPECT_EQ(pf_peer_turn(held.peer).served, 3);
  EXPECT(turn_until_answered(&held, 1));
  EXPECT_EQ(held.guest.board->slots[1].result, 0); /* it was given back before this was answered */
  EXPECT_EQ(told(&held.guest, 3, SUM, 20, 1), sum_expected(20, 1, -1));
  drop_guest(&held);
  close_stored(&stored);
}

/* K7. A page that is there does not wake whoever waits for it. */
static void woken_all_the_same(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  held_t held = hold_guest(snapshot, EVENT_REMOVE);
  uint8_t bytes[4096];
  fill_pattern(bytes, 5 * PAGE, sizeof bytes);
  ask(&held.guest, 0, TOUCH, 5, 1);
  EXPECT(wait_pending(&held, 1));
  EXPECT_EQ(pf_uffd_copy(held.guest.uffd, address_of(&held, 5), (uintptr_t)bytes, PAGE, PF_UFFDIO_COPY_MODE_DONTWAKE), PAGE);
  EXPECT_EQ(pf_peer_turn(held.peer).served, 1);
  EXPECT(answered(&held.guest, 0, 20000));
  EXPECT_EQ(held.peer->numbers.duplicates, 1);
  ask(&held.guest, 0, TOUCH, 6, 1);
  EXPECT(wait_pending(&held, 1));
  EXPECT_EQ(pf_uffd_copy(held.guest.uffd, address_of(&held, 6), (uintptr_t)bytes, PAGE, PF_UFFDIO_COPY_MODE_DONTWAKE), PAGE);
  EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 6), 1), 1); /* also when it was to be brought ahead */
  EXPECT(answered(&held.guest, 0, 20000));
  drop_guest(&held);
  pf_snapshot_drop(snapshot);
}

/* K8. A process that has ended is no error of a page. */
static void ended_and_no_error(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  for (int way = 0; way < 2; way++) {
    held_t held = hold_guest(snapshot, EVENT_REMOVE);
    kill(held.guest.pid, SIGKILL);
    siginfo_t about;
    must(waitid(P_PID, (id_t)held.guest.pid, &about, WEXITED | WNOWAIT) == 0, "its end");
    if (way == 0) {
      pf_peer_fetched(held.peer, 3, 0, pf_now_ns(), NULL);
    } else {
      EXPECT_EQ(pf_peer_bring_run(held.peer, address_of(&held, 3), 4), 4);
    }
    EXPECT_EQ(tellings[PF_PEER_GONE], 1);
    EXPECT_EQ(tellings[PF_PEER_PAGE_FAILED], 0);
    EXPECT_EQ(pf_peer_turn(held.peer).served, 0);
    drop_guest(&held);
  }
  pf_snapshot_drop(snapshot);
}

/* K9. Shared memory whose pages are there and not mapped: mapped by CONTINUE, since a wake alone says nothing of what is mapped. */
static void minor_faults(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, PF_UFFD_FEATURE_MINOR_SHMEM);
  told(&paged.guest, 0, FILL, 3, 2);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 3, 2), sum_expected(3, 2, 0));
  EXPECT_EQ(view_of(&paged).numbers.faults, 2);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* K11. The kernel itself touches a page that is missing. */
static void kernel_touches(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(told(&paged.guest, 0, TO_FILE, 7, 1), PAGE);
  EXPECT_EQ(view_of(&paged).numbers.demand, 1);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* The memory of a process that the guest has forked, until nobody has its end of the line. */
static bool wait_alone(const guest_t *guest) {
  uint8_t byte;
  int fd, count;
  for (uint64_t end = pf_now_ns() + 40000 * MS; pf_now_ns() < end; usleep(500)) {
    if (pf_unix_receive(guest->line, &byte, 1, &fd, 1, &count) == 0) {
      return true;
    }
  }
  return false;
}

/* K12. A child's userfaultfd comes with the message: the guest is ended, and its child never reads zeroes. */
static void forked(pf_backend_t backend) {
  (void)backend;
  pf_note_t note;
  pf_snapshot_t *snapshot = whole_image();
  unsigned before = count_descriptors();
  for (int i = 0; i < 5; i++) {
    paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | EVENT_FORK);
    ask(&paged.guest, 0, FORK, 9, 1);
    EXPECT(wait_note(paged.id, PF_PEER_REFUSED, &note));
    EXPECT(wait_alone(&paged.guest));
    EXPECT_EQ(atomic_load(&paged.guest.board->child), 0);
    EXPECT_EQ(end_guest(&paged.guest, false), SIGKILL);
    EXPECT(wait_note(paged.id, PF_PEER_GONE, &note));
    EXPECT(pf_peers_remove(paged.id, true));
    close(paged.states);
  }
  for (int i = 0; i < 20000 && count_descriptors() > before; i++) {
    usleep(1000);
  }
  EXPECT_EQ(count_descriptors(), before);
  pf_snapshot_drop(snapshot);
}

/* K13. What is moved is told as moved, and then as unmapped where it was; what grew behind it is told by nobody, and is new memory. */
static void moved_and_grown(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | EVENT_REMAP | EVENT_UNMAP);
  told(&paged.guest, 0, TOUCH, 5, 1);
  told(&paged.guest, 0, MOVE, 0, 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 8), sum_expected(0, 8, 0));
  told(&paged.guest, 0, MOVE_BACK, 0, 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 16), sum_expected(0, 16, 0));
  told(&paged.guest, 0, GROW, 0, 8);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 60, 4), sum_expected(60, 4, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 66, 2), sum_expected(66, 2, -1));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 64, 8), sum_expected(64, 8, -1));
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* K13. What was unmapped is no part of the snapshot any more, whatever is mapped there later. */
static void unmapped(pf_backend_t backend) {
  (void)backend;
  pf_note_t note;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | EVENT_UNMAP);
  EXPECT_EQ(told(&paged.guest, 0, REPLACE, 10, 2), 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 12, 2), sum_expected(12, 2, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 8, 2), sum_expected(8, 2, 0));
  ask(&paged.guest, 0, TOUCH, 10, 1); /* of nothing that was named */
  EXPECT(wait_note(paged.id, PF_PEER_REFUSED, &note));
  EXPECT_EQ(note.offset, paged.guest.base + 10 * PAGE);
  EXPECT_EQ(end_guest(&paged.guest, false), SIGKILL);
  EXPECT(wait_note(paged.id, PF_PEER_GONE, &note));
  EXPECT(pf_peers_remove(paged.id, true));
  close(paged.states);
  pf_snapshot_drop(snapshot);
}

/* K6. Pages are put there writable, so that memory that cannot be protected gets them; a process that protects some itself has them opened. */
static void protected(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | PF_UFFD_FEATURE_WP);
  told(&paged.guest, 0, WRITE, 4, 1);
  EXPECT_EQ(view_of(&paged).numbers.faults, 1);
  EXPECT_EQ(told(&paged.guest, 0, PROTECT, 4, 1), 0);
  told(&paged.guest, 0, WRITE, 4, 1);
  EXPECT_EQ(view_of(&paged).numbers.faults, 2);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

static void all(void) {
  test_on(PF_BACKEND_SIGNAL, "a thread that waits when the last userfaultfd goes reads nothing", last_reference);
  test_on(PF_BACKEND_SIGNAL, "memory is given back while a store takes its time", nobody_waits_for_a_store);
  test_on(PF_BACKEND_SIGNAL, "a page that is refused while an event is unread comes a moment later", refused_for_a_moment);
  test_on(PF_BACKEND_SIGNAL, "a run that meets a page that is there goes on behind it", run_meets_a_page);
  test_on(PF_BACKEND_SIGNAL, "events are acted on before the faults that were read with them", events_first);
  test_on(PF_BACKEND_SIGNAL, "whoever waits for a page that is there is woken", woken_all_the_same);
  test_on(PF_BACKEND_SIGNAL, "a process that has ended is told as that, not as a page that failed", ended_and_no_error);
  test_on(PF_BACKEND_SIGNAL, "a page of shared memory that is there is mapped", minor_faults);
  test_on(PF_BACKEND_SIGNAL, "the kernel, too, can touch a page that is missing", kernel_touches);
  test_on(PF_BACKEND_SIGNAL, "a guest that forks is ended, and its child reads no zeroes", forked);
  test_on(PF_BACKEND_SIGNAL, "memory that is moved and grows keeps its pages, and has new ones behind", moved_and_grown);
  test_on(PF_BACKEND_SIGNAL, "memory that is unmapped is no part of the snapshot any more", unmapped);
  test_on(PF_BACKEND_SIGNAL, "a page that the guest has protected itself is opened when it writes", protected);
}

int main(int count, char **words) { return with_guests(count, words, 2, all); }
