/*
 * For tests of processes whose memory is paged: real ones, the test program once more, that map memory, open a userfaultfd as Firecracker does, and then do
 * what a shared page says. Their memory is PAGES pages; main() is `return with_guests(count, words, THREADS, all)`.
 */
#ifndef PF_TEST_GUESTS_H
#define PF_TEST_GUESTS_H

#include "support.h"

#include "../peers.h"
#include "../process.h"
#include "../uapi.h"

#include <sys/prctl.h>

#define PAGES 64
#define HANDS 8

typedef enum { IDLE, TOUCH, SPREAD, SUM, REMOVE, CHURN, MOVE, MOVE_BACK, GROW, WRITE, FILL, TO_FILE, FORK, REPLACE, PROTECT, LET_GO, STOP } op_t;

/* A thread of the guest's does what its slot says. */
typedef struct {
  _Atomic int op;
  _Atomic uint32_t tid;
  uint64_t page, count, result;
} slot_t;

typedef struct {
  slot_t slots[HANDS];
  _Atomic uint64_t base;
  _Atomic int child; /* what a process that the guest forked has read, and 1 */
} board_t;

typedef struct {
  pid_t pid;
  int uffd, pidfd, line;
  board_t *board;
  uint64_t base;
} guest_t;

/* --- the guest ------------------------------------------------------------------------------------------------------------ */

static uint8_t *guest_memory, *guest_alias; /* alias: where the guest is made of shared memory; not registered */
static int guest_uffd;
static board_t *guest_board;

UNWATCHED static uint64_t sum_of(const volatile uint8_t *bytes, uint64_t length) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < length; i++) {
    sum = sum * 31 + bytes[i];
  }
  return sum;
}

UNWATCHED static void *touch_alone(void *at) {
  sum_of(at, 1);
  return NULL;
}

/* Each page by a thread of its own. */
static inline void spread(uint8_t *at, uint64_t count) {
  pthread_t threads[PAGES];
  for (uint64_t i = 0; i < count; i++) {
    must(pthread_create(&threads[i], NULL, touch_alone, at + i * PAGE) == 0, "a thread");
  }
  for (uint64_t i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
  }
}

UNWATCHED static void do_one(slot_t *slot) {
  volatile uint8_t *at = guest_memory + slot->page * PAGE;
  switch (atomic_load(&slot->op)) {
    case TOUCH:
      slot->result = *at;
      break;
    case SPREAD:
      spread((uint8_t *)(uintptr_t)at, slot->count);
      break;
    case WRITE:
      *at = 77;
      break;
    case SUM:
      slot->result = sum_of(at, slot->count * PAGE);
      break;
    case REMOVE:
      slot->result = (uint64_t)madvise((void *)(uintptr_t)at, slot->count * PAGE, MADV_DONTNEED);
      break;
    case CHURN: /* until the op is another one */
      while (atomic_load(&slot->op) == CHURN) {
        sum_of(at, slot->count * PAGE);
        madvise((void *)(uintptr_t)at, slot->count * PAGE, MADV_DONTNEED);
      }
      break;
    case MOVE: { /* the whole memory */
      void *moved = mremap(guest_memory, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, guest_memory + 4 * PAGES * PAGE);
      guest_memory = moved;
      break;
    }
    case MOVE_BACK:
      guest_memory = mremap(guest_memory, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, guest_memory - 4 * PAGES * PAGE);
      break;
    case GROW: /* as MOVE, and longer by some pages */
      guest_memory = mremap(guest_memory, PAGES * PAGE, (PAGES + slot->count) * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, guest_memory + 4 * PAGES * PAGE);
      break;
    case FILL: /* as whoever else has the memory does */
      for (uint64_t i = slot->page * PAGE; i < (slot->page + slot->count) * PAGE; i++) {
        guest_alias[i] = pattern(i);
      }
      break;
    case TO_FILE: { /* the kernel reads the memory */
      int file = memfd_create("copy", 0);
      int64_t wrote = pwrite(file, (const void *)(uintptr_t)at, PAGE, 0);
      slot->result = (uint64_t)(wrote < 0 ? -errno : wrote);
      close(file);
      break;
    }
    case FORK:
      if (fork() == 0) {
        signal(SIGBUS, SIG_DFL);
        alarm(patience(20));
        atomic_store(&guest_board->child, *at + 1);
        _exit(0);
      }
      break;
    case REPLACE: { /* by new memory, which is registered, too */
      uint64_t ioctls;
      munmap((void *)(uintptr_t)at, slot->count * PAGE);
      void *made = mmap((void *)(uintptr_t)at, slot->count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      slot->result = (uint64_t)pf_uffd_register(guest_uffd, (uintptr_t)made, slot->count * PAGE, PF_UFFDIO_REGISTER_MODE_MISSING, &ioctls);
      break;
    }
    case PROTECT:
      slot->result = (uint64_t)pf_uffd_write_protect(guest_uffd, (uintptr_t)at, slot->count * PAGE, PF_UFFDIO_WRITEPROTECT_MODE_WP);
      break;
    case LET_GO: /* of its own userfaultfd */
      close(guest_uffd);
      break;
    default:
      _exit(0);
  }
  atomic_store(&slot->op, IDLE);
}

static inline void *hand(void *data) {
  slot_t *slot = data;
  atomic_store(&slot->tid, (uint32_t)syscall(SYS_gettid));
  for (;;) {
    while (atomic_load(&slot->op) == IDLE) {
      usleep(50);
    }
    do_one(slot);
  }
  return NULL;
}

static inline void send_fd(int line, int fd) {
  uint8_t byte = 1;
  must(pf_unix_send(line, &byte, 1, &fd, 1) == 1, "the descriptor goes");
}

/* Whose pages are made through another mapping, and then touched here. */
static inline uint8_t *shared_memory(uint8_t *at) {
  int object = memfd_create("memory", 0);
  must(object >= 0 && ftruncate(object, (off_t)(PAGES * PAGE)) == 0, "an object");
  guest_alias = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0);
  must(guest_alias != MAP_FAILED, "an alias");
  return mmap(at, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, object, 0);
}

static inline void be_guest(char **words) {
  int board_fd = atoi(words[1]), line = atoi(words[2]);
  uint64_t features = strtoull(words[3], NULL, 10);
  uint64_t offered, ioctls;
  pthread_t thread;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  uint8_t *room = mmap(NULL, 16 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  must(room != MAP_FAILED, "room");
  board_t *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, board_fd, 0);
  must(board != MAP_FAILED, "a board");
  bool minor = (features & PF_UFFD_FEATURE_MINOR_SHMEM) != 0;
  guest_memory = minor ? shared_memory(room + PAGES * PAGE)
                       : mmap(room + PAGES * PAGE, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  must(guest_memory != MAP_FAILED, "memory");
  madvise(guest_memory, PAGES * PAGE, MADV_NOHUGEPAGE);
  int uffd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK, -1);
  must(uffd >= 0 && pf_uffd_handshake(uffd, features, &offered, &ioctls) == 0, "a userfaultfd");
  uint64_t mode = minor ? PF_UFFDIO_REGISTER_MODE_MINOR : PF_UFFDIO_REGISTER_MODE_MISSING;
  mode |= features & PF_UFFD_FEATURE_WP ? PF_UFFDIO_REGISTER_MODE_WP : 0;
  must(pf_uffd_register(uffd, (uintptr_t)guest_memory, PAGES * PAGE, mode, &ioctls) == 0, "registered");
  guest_uffd = uffd;
  guest_board = board;
  atomic_store(&board->base, (uintptr_t)guest_memory);
  send_fd(line, uffd);
  for (int i = 0; i < HANDS; i++) {
    must(pthread_create(&thread, NULL, hand, &board->slots[i]) == 0, "a thread");
  }
  for (;;) {
    pause();
  }
}

#define EVENT_FORK (1ULL << 1)
#define EVENT_REMAP (1ULL << 2)
#define EVENT_REMOVE (1ULL << 3)
#define EVENT_UNMAP (1ULL << 6)

static inline guest_t start_guest(uint64_t features) {
  guest_t guest = {0};
  int pair[2], count;
  uint8_t byte;
  int board = memfd_create("board", 0);
  must(board >= 0 && ftruncate(board, sizeof *guest.board) == 0 && pf_unix_pair(pair) == 0, "a board");
  guest.board = mmap(NULL, sizeof *guest.board, PROT_READ | PROT_WRITE, MAP_SHARED, board, 0);
  char words[3][24];
  snprintf(words[0], sizeof words[0], "%d", board);
  snprintf(words[1], sizeof words[1], "%d", pair[1]);
  snprintf(words[2], sizeof words[2], "%llu", (unsigned long long)features);
  guest.pid = fork();
  if (guest.pid == 0) { /* other threads of ours may hold locks: another program at once */
    fcntl(pair[1], F_SETFD, 0);
    execl("/proc/self/exe", "guest", words[0], words[1], words[2], (char *)NULL);
    _exit(127);
  }
  close(board);
  close(pair[1]);
  while (pf_unix_receive(pair[0], &byte, 1, &guest.uffd, 1, &count) != 1) {
    usleep(100);
  }
  guest.pidfd = pf_pidfd_open(guest.pid);
  guest.line = pair[0];
  guest.base = atomic_load(&guest.board->base);
  must(guest.pidfd >= 0, "a pidfd");
  return guest;
}

static inline void ask(guest_t *guest, int slot, op_t op, uint64_t page, uint64_t count) {
  slot_t *at = &guest->board->slots[slot];
  at->page = page;
  at->count = count;
  atomic_store(&at->op, op);
}

static inline bool answered(const guest_t *guest, int slot, uint64_t within_ms) {
  uint64_t end = pf_now_ns() + within_ms * MS;
  while (atomic_load(&guest->board->slots[slot].op) != IDLE) {
    if (pf_now_ns() > end) {
      return false;
    }
    usleep(100);
  }
  return true;
}

static inline uint64_t told(guest_t *guest, int slot, op_t op, uint64_t page, uint64_t count) {
  ask(guest, slot, op, page, count);
  EXPECT(answered(guest, slot, 20000));
  return guest->board->slots[slot].result;
}

/* How it ended: the signal. */
static inline int end_guest(guest_t *guest, bool kill_it) {
  int status = 0;
  if (kill_it) {
    kill(guest->pid, SIGKILL);
  }
  for (uint64_t end = pf_now_ns() + 20000 * MS; waitpid(guest->pid, &status, WNOHANG) == 0 && pf_now_ns() < end;) {
    usleep(500);
  }
  close(guest->line);
  munmap(guest->board, sizeof *guest->board);
  return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

/* --- the pager's side ----------------------------------------------------------------------------------------------------------- */

static uint32_t owner;
static int note_fd;

static inline int memory_file(const char *name, uint64_t from, uint64_t to, uint8_t add) {
  int fd = memfd_create(name, MFD_CLOEXEC);
  must(fd >= 0 && ftruncate(fd, (off_t)(PAGES * PAGE)) == 0, "a file");
  for (uint64_t page = from; page < to; page++) {
    uint8_t bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++) {
      bytes[i] = (uint8_t)(pattern(page * PAGE + i) + add);
    }
    must(pwrite(fd, bytes, sizeof bytes, (off_t)(page * PAGE)) == (ssize_t)sizeof bytes, "bytes");
  }
  return fd;
}

static inline uint64_t sum_expected(uint64_t page, uint64_t count, int add) {
  uint64_t sum = 0;
  for (uint64_t i = page * PAGE; i < (page + count) * PAGE; i++) {
    sum = sum * 31 + (add < 0 ? 0 : (uint8_t)(pattern(i) + add));
  }
  return sum;
}

typedef struct {
  guest_t guest;
  uint64_t id;
  int states;
} paged_t;

static inline paged_t page_guest_within(uint64_t timeout_ms, pf_snapshot_t *snapshot, bool park, bool record, uint64_t features) {
  paged_t paged = {.guest = start_guest(features), .states = memfd_create("states", MFD_CLOEXEC)};
  must(ftruncate(paged.states, PF_PEER_STATES_BYTES(PAGES)) == 0, "states");
  pf_area_t area = {paged.guest.base, paged.guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = paged.guest.uffd, .pidfd = paged.guest.pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = paged.states,
                               .park = park, .record = record, .timeout_ns = timeout_ms * MS, .snapshot = snapshot};
  EXPECT_EQ(pf_peers_add(owner, &options, &paged.id), 0);
  return paged;
}

static inline paged_t page_guest(pf_snapshot_t *snapshot, bool park, bool record, uint64_t features) {
  return page_guest_within(5000, snapshot, park, record, features);
}

static inline void let_go(paged_t *paged) {
  EXPECT(pf_peers_remove(paged->id, true));
  EXPECT_EQ(end_guest(&paged->guest, false), SIGKILL);
  close(paged->states);
}

static inline pf_snapshot_t *image(int first, int second) {
  int fds[2] = {first, second};
  pf_snapshot_t *snapshot = NULL;
  EXPECT_EQ(pf_snapshot_of_files(fds, second < 0 ? 1 : 2, PAGES * PAGE, &snapshot), 0);
  return snapshot;
}

/* Of a file that has every page, and is the snapshot's alone. */
static inline pf_snapshot_t *whole_image(void) {
  int fd = memory_file("base", 0, PAGES, 0);
  pf_snapshot_t *snapshot = image(fd, -1);
  close(fd);
  return snapshot;
}

static inline pf_peer_view_t view_of(const paged_t *paged) {
  pf_peer_view_t view = {0};
  EXPECT(pf_peers_look(paged->id, &view));
  return view;
}

/* Notes that came before they were waited for stay. */
static inline bool wait_note(uint64_t id, pf_peer_event_t event, pf_note_t *out) {
  static pf_note_t notes[256];
  static size_t count;
  *out = (pf_note_t){0};
  for (uint64_t end = pf_now_ns() + 20000 * MS; pf_now_ns() < end; usleep(500)) {
    count += pf_peers_take_notes(owner, notes + count, 256 - count);
    for (size_t i = 0; i < count; i++) {
      if (notes[i].peer == id && notes[i].event == event) {
        *out = notes[i];
        memmove(&notes[i], &notes[i + 1], (--count - i) * sizeof notes[i]);
        return true;
      }
    }
  }
  return false;
}

static inline bool wait_faults(const paged_t *paged, uint64_t wanted) {
  for (uint64_t end = pf_now_ns() + 20000 * MS; pf_now_ns() < end; usleep(500)) {
    if (view_of(paged).numbers.faults >= wanted) {
      return true;
    }
  }
  return false;
}

/* --- a store that can be held back --------------------------------------------------------------------------------------------- */

static _Atomic int held_back; /* the store does not answer */

/* Any but one whose `data` is set. */
static inline bool serve_late(test_store_t *store, const pf_order_t *order) {
  (void)order;
  while (store->data == NULL && atomic_load(&held_back)) {
    usleep(200);
  }
  return true;
}

typedef struct {
  test_store_t store;
  pf_region_t *region;
  pf_snapshot_t *snapshot;
} stored_t;

static inline void open_store(stored_t *stored, pf_backend_t backend, void *never_late) {
  stored->store = (test_store_t){.serve = serve_late, .data = never_late};
  start_store(&stored->store);
  stored->region = open_region(backend, pager_source(&stored->store), PAGES * PAGE, OPTIONS(.timeout_ms = 60000));
  EXPECT_EQ(pf_snapshot_of_segment(atomic_load(&stored->region->id), PAGES * PAGE, &stored->snapshot), 0);
}

static inline void open_stored(stored_t *stored, pf_backend_t backend) {
  atomic_store(&held_back, 0);
  open_store(stored, backend, NULL);
}

static inline void close_stored(stored_t *stored) {
  atomic_store(&held_back, 0);
  pf_snapshot_drop(stored->snapshot);
  EXPECT(close_region(stored->region));
  stop_store(&stored->store);
}

/* --- main ------------------------------------------------------------------------------------------------------------------------ */

/* Runs the tests, with so many threads that page; or is a guest of theirs. The exit code. */
static inline int with_guests(int count, char **words, unsigned threads, void (*all)(void)) {
  pf_uffd_probe_t probe;
  if (count == 4) {
    be_guest(words);
  }
  pf_uffd_probe(&probe);
  if (probe.kernel_mode_errno != 0) {
    printf("skipped: userfaultfd is not for this user\n");
    return summary();
  }
  must(pf_peers_open(threads, &owner, &note_fd) == 0, "threads");
  all();
  pf_peers_close(owner);
  return summary();
}

#endif
