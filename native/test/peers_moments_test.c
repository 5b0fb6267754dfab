/*
 * The threads that page other processes, in moments that hardly ever come: calls of theirs are refused, a guest never lets them rest, there is more to do than they can
 * begin. The calls are this program's own symbols, which go before the C library's.
 */
#include "guests.h"

#include <dirent.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>

/* --- calls that go wrong ---------------------------------------------------------------------------------------------------------- */

static _Atomic uint64_t refused;     /* the ioctl */
static _Atomic int refusals, refused_with;
static _Atomic int adds_left = -1;   /* of epoll_ctl, until one fails */
static _Atomic uint64_t restless_key; /* what epoll_wait tells of whenever there is nothing else; 0: it waits */

static _Atomic(pf_region_t *) leaving; /* its page LEAVES goes right before the next page is put anywhere */
#define LEAVES 5

static void refuse(uint64_t request, int times, int with) {
  atomic_store(&refused_with, with);
  atomic_store(&refusals, times);
  atomic_store(&refused, request);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  pf_region_t *region = request == PF_UFFDIO_COPY ? atomic_exchange(&leaving, NULL) : NULL;
  if (region != NULL) {
    pf_region_release(region, LEAVES, LEAVES + 1);
  }
  if (request == atomic_load(&refused) && atomic_fetch_sub(&refusals, 1) > 0) {
    errno = atomic_load(&refused_with);
    return -1;
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

int epoll_ctl(int poll, int op, int fd, struct epoll_event *event) {
  if (op == EPOLL_CTL_ADD && atomic_load(&adds_left) >= 0 && atomic_fetch_sub(&adds_left, 1) == 0) {
    errno = ENOSPC; /* fs.epoll.max_user_watches */
    return -1;
  }
  return (int)syscall(SYS_epoll_ctl, poll, op, fd, event);
}

int epoll_wait(int poll, struct epoll_event *events, int most, int timeout) {
  uint64_t key = atomic_load(&restless_key);
  int got = (int)syscall(SYS_epoll_pwait, poll, events, most, key != 0 ? 0 : timeout, NULL, 8);
  if (got == 0 && key != 0) {
    events[0] = (struct epoll_event){.events = EPOLLIN, .data.u64 = key};
    return 1;
  }
  return got;
}

static bool has_orders(void *store) { return atomic_load(&((test_store_t *)store)->orders) > 0; }

static void open_held_back(stored_t *stored) {
  open_stored(stored, PF_BACKEND_SIGNAL);
  atomic_store(&held_back, 1);
}

/* --- tests --------------------------------------------------------------------------------------------------------------------------- */

/* While an event is unread the kernel does not take protection away, either; whoever writes there waits all the same. */
static void protection_refused(pf_backend_t backend) {
  (void)backend;
  static const int errors[] = {EAGAIN, ENOMEM, ENOENT};
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE | PF_UFFD_FEATURE_WP);
  for (uint64_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    told(&paged.guest, 0, WRITE, i, 1);
    EXPECT_EQ(told(&paged.guest, 0, PROTECT, i, 1), 0);
    refuse(PF_UFFDIO_WRITEPROTECT, 3, errors[i]);
    told(&paged.guest, 0, WRITE, i, 1);
  }
  EXPECT_EQ(view_of(&paged).numbers.failures, 0);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

/* A thread waits for a page that cannot be had; it is given back, so there is nothing any more that could be tried again. */
static void parked_and_given_back(pf_backend_t backend) {
  (void)backend;
  pf_note_t note;
  int fd = memory_file("base", 0, 64, 0);
  pf_snapshot_t *snapshot = image(fd, -1);
  paged_t paged = page_guest(snapshot, true, false, EVENT_REMOVE);
  must(ftruncate(fd, (off_t)(32 * PAGE)) == 0, "shorter");
  for (uint64_t page = 40; page < 43; page++) {
    ask(&paged.guest, 0, SUM, page, 1);
    EXPECT(wait_note(paged.id, PF_PEER_PAGE_FAILED, &note));
    EXPECT_EQ(told(&paged.guest, 1, REMOVE, page, 1), 0);
    EXPECT(answered(&paged.guest, 0, LONG_MS));
    EXPECT_EQ(paged.guest.board->slots[0].result, sum_expected(page, 1, -1));
  }
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  close(fd);
}

/* A fault that is to have another try has it, although another guest asks without end. */
static void never_at_rest(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t restless = page_guest(snapshot, false, false, EVENT_REMOVE), paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  atomic_store(&restless_key, restless.id << 1);
  refuse(PF_UFFDIO_COPY, 1, ENOMEM);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 3, 1), sum_expected(3, 1, 0));
  EXPECT_EQ(view_of(&paged).numbers.retries, 1);
  atomic_store(&restless_key, 0);
  let_go(&restless);
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

static int by_size(const void *one, const void *other) {
  uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
  return (a > b) - (a < b);
}

/* One turn of a guest, then the next one's: with one thread for all, and eight that fault without end in one guest, the pages of a quiet one come in between.
 * Judged by how many faults of the storm are answered meanwhile: some tens, of which most come while the quiet one does not run. It hangs where a thread stays with a guest as long as that asks. */
static void storm_next_door(pf_backend_t backend) {
  (void)backend;
  uint64_t meanwhile[PAGES];
  pf_snapshot_t *snapshot = whole_image();
  paged_t wild = page_guest(snapshot, false, false, EVENT_REMOVE), quiet = page_guest(snapshot, false, false, EVENT_REMOVE);
  for (int i = 0; i < HANDS; i++) {
    ask(&wild.guest, i, CHURN, (uint64_t)i * 8, 8);
  }
  EXPECT(wait_faults(&wild, 1000));
  for (uint64_t page = 0; page < PAGES; page++) {
    uint64_t before = view_of(&wild).numbers.faults;
    EXPECT_EQ(told(&quiet.guest, 0, SUM, page, 1), sum_expected(page, 1, 0));
    meanwhile[page] = view_of(&wild).numbers.faults - before;
  }
  qsort(meanwhile, PAGES, sizeof *meanwhile, by_size);
  EXPECT(meanwhile[PAGES / 2] < 1000);
  EXPECT(wait_faults(&wild, view_of(&wild).numbers.faults + 1)); /* it has not ended */
  for (int i = 0; i < HANDS; i++) {
    atomic_store(&wild.guest.board->slots[i].op, IDLE);
  }
  let_go(&wild);
  let_go(&quiet);
  pf_snapshot_drop(snapshot);
}

#define HELD 20      /* pages of one guest */
#define HELD_MOST 5  /* stores that do not answer: more than the threads that a segment may have beside others */

static bool has_all_faults(void *paged) { return view_of(paged).numbers.faults >= HELD; }

static void touch_held(paged_t *paged) {
  ask(&paged->guest, 0, SPREAD, 0, HELD);
  EXPECT(wait_until(has_all_faults, paged, LONG_MS));
}

/* Guests of stores that do not answer, and one of another that does: it has what it asks for while all the others wait. */
static void beside_held(int count) {
  stored_t held[HELD_MOST], well;
  paged_t waiting[HELD_MOST];
  for (int i = 0; i < count; i++) {
    open_held_back(&held[i]);
  }
  open_store(&well, PF_BACKEND_SIGNAL, &well);
  paged_t quiet = page_guest_within(60000, well.snapshot, false, false, EVENT_REMOVE);
  for (int i = 0; i < count; i++) {
    waiting[i] = page_guest_within(60000, held[i].snapshot, false, false, EVENT_REMOVE);
    touch_held(&waiting[i]);
  }
  for (uint64_t page = 0; atomic_load(&unmet) == 0 && page < 8; page++) {
    EXPECT_EQ(told(&quiet.guest, 0, SUM, page, 1), sum_expected(page, 1, 0));
  }
  for (int i = 0; i < count; i++) {
    EXPECT_EQ(view_of(&waiting[i]).numbers.demand, 0);
    EXPECT_EQ(view_of(&waiting[i]).numbers.failures, 0);
  }
  atomic_store(&held_back, 0);
  for (int i = 0; i < count; i++) {
    EXPECT(answered(&waiting[i].guest, 0, LONG_MS));
    EXPECT_EQ(told(&waiting[i].guest, 0, SUM, 0, HELD), sum_expected(0, HELD, 0));
    let_go(&waiting[i]);
    close_stored(&held[i]);
  }
  let_go(&quiet);
  close_stored(&well);
}

static void held_next_door(pf_backend_t backend) {
  (void)backend;
  beside_held(1);
}

static void many_held_next_door(pf_backend_t backend) {
  (void)backend;
  beside_held(HELD_MOST);
}

/* All the threads that its segment may have are with faults that came before it. The other pages that wait are still waited for then. */
static void late_behind_others(pf_backend_t backend) {
  (void)backend;
  stored_t stored;
  pf_note_t note;
  open_held_back(&stored);
  paged_t waiting = page_guest_within(60000, stored.snapshot, false, false, EVENT_REMOVE);
  touch_held(&waiting);
  paged_t late = page_guest_within(300, stored.snapshot, false, false, EVENT_REMOVE);
  ask(&late.guest, 0, TOUCH, 40, 1);
  EXPECT(wait_note(late.id, PF_PEER_PAGE_FAILED, &note));
  EXPECT_EQ(note.offset, 40 * PAGE);
  EXPECT_EQ(note.why.code, PF_E_TIMEOUT);
  EXPECT_EQ(view_of(&waiting).numbers.demand, 0);
  EXPECT_EQ(view_of(&waiting).numbers.failures, 0);
  let_go(&late);
  let_go(&waiting);
  close_stored(&stored);
}

static bool has_two_holders(void *snapshot) { return pf_snapshot_holders(snapshot) == 2; }

/* What waits for a thread is forgotten with its guest, while the others are still waited for. */
static void ends_behind_others(pf_backend_t backend) {
  (void)backend;
  stored_t stored;
  open_held_back(&stored);
  paged_t waiting = page_guest_within(60000, stored.snapshot, false, false, EVENT_REMOVE);
  touch_held(&waiting);
  paged_t other = page_guest_within(60000, stored.snapshot, false, false, EVENT_REMOVE);
  ask(&other.guest, 0, SPREAD, 30, HELD);
  EXPECT(wait_until(has_all_faults, &other, LONG_MS));
  let_go(&other);
  EXPECT(wait_until(has_two_holders, stored.snapshot, LONG_MS)); /* its maker, and the guest that waits still */
  EXPECT_EQ(view_of(&waiting).numbers.demand, 0);
  let_go(&waiting);
  close_stored(&stored);
}

/* What is copied from files waits for no store. */
static void lists_apart(pf_backend_t backend) {
  (void)backend;
  stored_t stored;
  pf_note_t note;
  uint32_t apart[PAGES / 2], all[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) {
    apart[i / 2] = i;
    all[i] = i;
  }
  open_held_back(&stored);
  pf_snapshot_t *snapshot = whole_image();
  paged_t held = page_guest(stored.snapshot, false, false, EVENT_REMOVE), file = page_guest(snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(pf_peers_replay(held.id, apart, PAGES / 2), 0);
  EXPECT(wait_until(has_orders, &stored.store, LONG_MS));
  EXPECT_EQ(pf_peers_replay(file.id, all, PAGES), 0);
  EXPECT(wait_note(file.id, PF_PEER_REPLAYED, &note));
  EXPECT_EQ(view_of(&file).numbers.prefetched, PAGES);
  EXPECT_EQ(view_of(&held).numbers.prefetched, 0);
  let_go(&held);
  let_go(&file);
  pf_snapshot_drop(snapshot);
  close_stored(&stored);
}

#define LISTS_MOST 9 /* of stores that do not answer: more than may have several threads each */

static bool few_ahead(void *data) {
  (void)data;
  DIR *tasks = opendir("/proc/self/task");
  unsigned count = 0;
  must(tasks != NULL, "/proc/self/task");
  for (struct dirent *task = readdir(tasks); task != NULL; task = readdir(tasks)) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *comm = fopen(path, "re");
    if (comm != NULL) {
      count += fgets(name, sizeof name, comm) != NULL && strcmp(name, "pagefault ahead\n") == 0;
      fclose(comm);
    }
  }
  closedir(tasks);
  return count <= 8 + 2; /* of stores, and of files */
}

/* What is brought ahead from a store that answers is there while the others wait for theirs; then the threads that were needed for that end. */
static void lists_beside_held(int count) {
  stored_t held[LISTS_MOST], well;
  paged_t waiting[LISTS_MOST];
  pf_note_t note;
  uint32_t apart[PAGES / 2], all[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) {
    apart[i / 2] = i;
    all[i] = i;
  }
  for (int i = 0; i < count; i++) {
    open_held_back(&held[i]);
  }
  open_store(&well, PF_BACKEND_SIGNAL, &well);
  for (int i = 0; i < count; i++) {
    waiting[i] = page_guest(held[i].snapshot, false, false, EVENT_REMOVE);
    EXPECT_EQ(pf_peers_replay(waiting[i].id, apart, PAGES / 2), 0);
    EXPECT(wait_until(has_orders, &held[i].store, LONG_MS));
  }
  paged_t quiet = page_guest(well.snapshot, false, false, EVENT_REMOVE);
  EXPECT_EQ(pf_peers_replay(quiet.id, all, PAGES), 0);
  EXPECT(wait_note(quiet.id, PF_PEER_REPLAYED, &note));
  EXPECT_EQ(view_of(&quiet).numbers.prefetched, PAGES);
  for (int i = 0; i < count; i++) {
    EXPECT_EQ(view_of(&waiting[i]).numbers.prefetched, 0);
  }
  atomic_store(&held_back, 0);
  for (int i = 0; i < count; i++) {
    EXPECT(wait_note(waiting[i].id, PF_PEER_REPLAYED, &note));
    EXPECT_EQ(view_of(&waiting[i]).numbers.prefetched, PAGES / 2);
    let_go(&waiting[i]);
    close_stored(&held[i]);
  }
  let_go(&quiet);
  close_stored(&well);
  EXPECT(wait_until(few_ahead, NULL, LONG_MS));
}

static void list_beside_one(pf_backend_t backend) {
  (void)backend;
  lists_beside_held(1);
}

static void list_beside_many(pf_backend_t backend) {
  (void)backend;
  lists_beside_held(LISTS_MOST);
}

/* What nobody would hear of is not taken over. */
static void not_watched(pf_backend_t backend) {
  (void)backend;
  int fd = memory_file("base", 0, 64, 0), states = memfd_create("states", MFD_CLOEXEC);
  pf_snapshot_t *snapshot = image(fd, -1);
  guest_t guest = start_guest(EVENT_REMOVE);
  uint64_t id;
  must(ftruncate(states, PF_PEER_STATES_BYTES(PAGES)) == 0, "states");
  pf_area_t area = {guest.base, guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = guest.uffd, .pidfd = guest.pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = states,
                               .timeout_ns = 5000 * MS, .snapshot = snapshot};
  for (int at = 0; at < 2; at++) {
    atomic_store(&adds_left, at);
    EXPECT_EQ(pf_peers_add(owner, &options, &id), -ENOSPC);
    EXPECT(fcntl(guest.uffd, F_GETFD) >= 0 && fcntl(guest.pidfd, F_GETFD) >= 0);
    EXPECT_EQ(pf_snapshot_holders(snapshot), 1);
  }
  EXPECT_EQ(pf_peers_add(owner, &options, &id), 0);
  EXPECT_EQ(told(&guest, 0, SUM, 0, 8), sum_expected(0, 8, 0));
  paged_t paged = {guest, id, states};
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  close(fd);
}

/* The last pages of a list have left it before they are there. */
static void under_way(pf_backend_t backend) {
  (void)backend;
  stored_t stored;
  pf_note_t note;
  open_held_back(&stored);
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE);
  const uint32_t pages[] = {5, 6};
  EXPECT_EQ(view_of(&paged).replay_left, 0);
  EXPECT_EQ(pf_peers_replay(paged.id, pages, 2), 0);
  EXPECT(wait_until(has_orders, &stored.store, LONG_MS));
  EXPECT_EQ(view_of(&paged).replay_left, 1);
  atomic_store(&held_back, 0);
  EXPECT(wait_note(paged.id, PF_PEER_REPLAYED, &note));
  EXPECT_EQ(view_of(&paged).replay_left, 0);
  EXPECT_EQ(view_of(&paged).numbers.prefetched, 2);
  let_go(&paged);
  close_stored(&stored);
}

/* A page of a segment is there when it is looked for, and is to go when it is copied: nobody waits for the store who serves other guests. */
static void leaves_meanwhile(pf_backend_t backend) {
  stored_t stored;
  open_stored(&stored, backend);
  EXPECT_EQ(checked_byte(stored.region, LEAVES * PAGE), pattern(LEAVES * PAGE));
  paged_t paged = page_guest(stored.snapshot, false, false, EVENT_REMOVE);
  atomic_store(&held_back, 1);
  atomic_store(&leaving, stored.region);
  ask(&paged.guest, 0, TOUCH, LEAVES, 1);
  EXPECT(wait_faults(&paged, 1));
  EXPECT_EQ(told(&paged.guest, 1, REMOVE, 20, 2), 0);
  atomic_store(&held_back, 0);
  EXPECT(answered(&paged.guest, 0, LONG_MS));
  EXPECT_EQ(told(&paged.guest, 0, SUM, LEAVES, 1), sum_expected(LEAVES, 1, 0));
  let_go(&paged);
  close_stored(&stored);
}

#define MANY 600

static size_t replayed_of(size_t wanted) {
  static pf_note_t notes[256];
  size_t replayed = 0;
  for (uint64_t end = pf_now_ns() + 20000 * MS; replayed < wanted && pf_now_ns() < end; usleep(500)) {
    size_t count = pf_peers_take_notes(owner, notes, 256);
    for (size_t i = 0; i < count; i++) {
      replayed += notes[i].event == PF_PEER_REPLAYED;
    }
  }
  return replayed;
}

/* More lists than can be begun wait, and each of them is told of in the end. Their guests have no memory: nothing can be brought, which takes as long. */
static void many_lists(pf_backend_t backend) {
  (void)backend;
  static uint64_t ids[MANY];
  stored_t stored;
  open_held_back(&stored);
  struct rlimit limit = {4096, 4096};
  uint64_t offered, ioctls;
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pause();
    _exit(0);
  }
  int pidfd = pf_pidfd_open(child), uffd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK, -1), states = memfd_create("states", MFD_CLOEXEC);
  must(setrlimit(RLIMIT_NOFILE, &limit) == 0 && pidfd >= 0 && pf_uffd_handshake(uffd, EVENT_REMOVE, &offered, &ioctls) == 0 &&
           ftruncate(states, PF_PEER_STATES_BYTES(1)) == 0,
       "nobody's memory");
  pf_area_t area = {1 << 24, (1 << 24) + PAGE, 0, 0, false};
  const uint32_t page = 0;
  for (size_t i = 0; i < MANY; i++) {
    pf_peer_options_t options = {.uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 0), .pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0), .areas = &area, .area_count = 1,
                                 .page_shift = 12, .states = states, .timeout_ns = 5000 * MS, .snapshot = stored.snapshot};
    must(pf_peers_add(owner, &options, &ids[i]) == 0, "a peer");
    EXPECT_EQ(pf_peers_replay(ids[i], &page, 1), 0);
  }
  atomic_store(&held_back, 0);
  EXPECT_EQ(replayed_of(MANY), MANY);
  for (size_t i = 0; i < MANY; i++) {
    EXPECT(pf_peers_remove(ids[i], false));
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  close(pidfd);
  close(uffd);
  close(states);
  close_stored(&stored);
}

/* Memory that was told in many parts is one mapping to the kernel, and moves in one step. */
static void moved_in_many_parts(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = {.guest = start_guest(EVENT_REMOVE | EVENT_REMAP | EVENT_UNMAP), .states = memfd_create("states", MFD_CLOEXEC)};
  must(ftruncate(paged.states, PF_PEER_STATES_BYTES(PAGES)) == 0, "states");
  pf_area_t areas[PAGES];
  for (uint64_t i = 0; i < PAGES; i++) {
    uint64_t at = paged.guest.base + i * PAGE;
    areas[i] = (pf_area_t){at, at + PAGE, i * PAGE, 0, false};
  }
  pf_peer_options_t options = {.uffd = paged.guest.uffd, .pidfd = paged.guest.pidfd, .areas = areas, .area_count = PAGES, .page_shift = 12,
                               .states = paged.states, .timeout_ns = 5000 * MS, .snapshot = snapshot};
  EXPECT_EQ(pf_peers_add(owner, &options, &paged.id), 0);
  told(&paged.guest, 0, TOUCH, 5, 1);
  told(&paged.guest, 0, MOVE, 0, 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, 32), sum_expected(0, 32, 0));
  told(&paged.guest, 0, MOVE_BACK, 0, 0);
  EXPECT_EQ(told(&paged.guest, 0, REMOVE, 40, 2), 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 32, 8), sum_expected(32, 8, 0));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 40, 2), sum_expected(40, 2, -1));
  EXPECT_EQ(told(&paged.guest, 0, SUM, 42, 22), sum_expected(42, 22, 0));
  let_go(&paged);
  pf_snapshot_drop(snapshot);
}

static void all(void) {
  test_on(PF_BACKEND_SIGNAL, "whoever writes to a protected page is not forgotten when the kernel refuses to open it now", protection_refused);
  test_on(PF_BACKEND_SIGNAL, "whoever waits for a page that cannot be had goes on when it is given back", parked_and_given_back);
  test_on(PF_BACKEND_SIGNAL, "a fault has its next try while another guest never lets the thread rest", never_at_rest);
  test_on(PF_BACKEND_SIGNAL, "a guest in a storm starves no other", storm_next_door);
  test_on(PF_BACKEND_SIGNAL, "twenty pages of a guest whose store does not answer hold up no guest of another one", held_next_door);
  test_on(PF_BACKEND_SIGNAL, "many stores that do not answer hold up no guest of another one", many_held_next_door);
  test_on(PF_BACKEND_SIGNAL, "a page that waits behind others fails at its own deadline", late_behind_others);
  test_on(PF_BACKEND_SIGNAL, "a guest that ends behind others is forgotten", ends_behind_others);
  test_on(PF_BACKEND_SIGNAL, "a list of a file is done beside one of a store that does not answer", lists_apart);
  test_on(PF_BACKEND_SIGNAL, "a list is done beside one of a store that does not answer", list_beside_one);
  test_on(PF_BACKEND_SIGNAL, "a list is done beside those of many stores that do not answer", list_beside_many);
  test_on(PF_BACKEND_SIGNAL, "a guest whose descriptors cannot be watched is refused, and stays the caller's", not_watched);
  test_on(PF_BACKEND_SIGNAL, "a list is not done while its last pages are under way", under_way);
  test_each("a page that leaves its segment while it is copied holds up nobody else", leaves_meanwhile);
  test_on(PF_BACKEND_SIGNAL, "six hundred lists at once are all told of", many_lists);
  test_on(PF_BACKEND_SIGNAL, "memory that was told in many parts moves as a whole", moved_in_many_parts);
}

int main(int count, char **words) { return with_guests(count, words, 1, all); }
