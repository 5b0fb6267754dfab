/*
 * See peers.h, and peers_threads.h. Here: who is told, the table, and the threads that attend: they wait (epoll) for messages of any peer, and serve it for one
 * turn: a handful of messages; then its place in the queue is the last one, so that a peer with many threads does not hold up one with a few.
 */
#include "peers.h"

#include "peers_threads.h"
#include "thread.h"
#include "uapi.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define ATTENDING_MAX 16
#define NOTES 8192
#define NOTES_OF_PAGES 2048
#define BUSY_NS 50000ULL
#define LEAST_BUSY_NS 4000ULL
#define LATER_NS 1000000ULL /* between two turns without a message */

/* --- owners and their notes ------------------------------------------------------------------------------------------------------ */

typedef struct {
  bool used;
  int fd;
  size_t first, count;
  pf_note_t *notes;
} owner_t;

static pf_lock_t notes_lock;
static owner_t owners[PF_OWNERS_MAX];

void pf_peers_tell(pf_peer_t *peer, pf_peer_event_t event, uint64_t offset, pf_why_t why) {
  uint64_t one = 1;
  pf_lock(&notes_lock);
  owner_t *owner = &owners[peer->owner];
  size_t most = event == PF_PEER_PAGE_FAILED ? NOTES_OF_PAGES : NOTES; /* the others come once or twice a peer */
  if (owner->used && owner->count < most) {
    owner->notes[(owner->first + owner->count++) % NOTES] = (pf_note_t){peer->id, offset, event, why};
    while (write(owner->fd, &one, sizeof one) < 0 && errno == EINTR) { /* else nobody would hear of it before the next note */
    }
  }
  pf_unlock(&notes_lock);
}

size_t pf_peers_take_notes(uint32_t number, pf_note_t *out, size_t most) {
  sigset_t before;
  uint64_t told;
  size_t taken = 0;
  pf_mask_signals(&before);
  pf_lock(&notes_lock);
  owner_t *owner = &owners[number];
  if (number < PF_OWNERS_MAX && owner->used) {
    ssize_t ignored = read(owner->fd, &told, sizeof told);
    (void)ignored;
    while (taken < most && owner->count > 0) {
      out[taken++] = owner->notes[owner->first];
      owner->first = (owner->first + 1) % NOTES;
      owner->count--;
    }
  }
  pf_unlock(&notes_lock);
  pf_restore_signals(&before);
  return taken;
}

/* --- the table ------------------------------------------------------------------------------------------------------------------------ */

static pf_lock_t table_lock;
static pf_peer_t *table[PF_PEERS_MAX];
static uint64_t generation;
static int poll_fd = -1;
static _Atomic unsigned laters; /* peers that want another turn without a message */

void pf_peers_drop(pf_peer_t *peer) {
  if (atomic_fetch_sub(&peer->refs, 1) == 1) {
    pf_peer_free(peer);
  }
}

static pf_peer_t *take_at(size_t slot) {
  pf_lock(&table_lock);
  pf_peer_t *peer = table[slot];
  if (peer != NULL) {
    atomic_fetch_add(&peer->refs, 1);
  }
  pf_unlock(&table_lock);
  return peer;
}

static pf_peer_t *take(uint64_t id) {
  pf_peer_t *peer = take_at(id % PF_PEERS_MAX);
  if (peer != NULL && peer->id != id) {
    pf_peers_drop(peer);
    return NULL;
  }
  return peer;
}

void pf_peers_lock(pf_peer_t *peer) {
  atomic_fetch_add(&peer->wanted, 1);
  pf_lock(&peer->lock);
  atomic_fetch_sub(&peer->wanted, 1);
}

/* --- attending -------------------------------------------------------------------------------------------------------------------------------- */

enum { OF_UFFD, OF_PIDFD };

static int arm(const pf_peer_t *peer, int op, int what) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = peer->id << 1 | (unsigned)what};
  return epoll_ctl(poll_fd, op, what == OF_UFFD ? peer->uffd : peer->pidfd, &event) == 0 ? 0 : -errno;
}

/* Lock held. Nobody reads messages while pages are being copied without it. */
static void await_copies(pf_peer_t *peer) {
  peer->turns++;
  while (peer->copies > 0) {
    uint32_t seen = atomic_load(&peer->moved);
    pf_unlock(&peer->lock);
    pf_futex_wait(&peer->moved, seen, UINT64_MAX);
    pf_lock(&peer->lock);
  }
  if (--peer->turns == 0 && peer->replay_threads > 0) {
    atomic_fetch_add(&peer->moved, 1);
    pf_futex_wake_all(&peer->moved);
  }
}

unsigned pf_peers_turn(pf_peer_t *peer) {
  pf_turn_t turn = {0};
  pf_peers_lock(peer);
  await_copies(peer);
  if (!atomic_load(&peer->closing)) {
    turn = pf_peer_turn(peer);
  }
  if (turn.later != peer->later) {
    peer->later = turn.later;
    atomic_fetch_add(&laters, turn.later ? 1u : -1u);
  }
  pf_unlock(&peer->lock);
  return turn.served;
}

/* It is heard of once for each time that this is done. Where there is no memory for that now, nobody would hear of it
 * ever again, and so it is looked after without. */
static void arm_again(pf_peer_t *peer) {
  while (!peer->gone && !atomic_load(&peer->closing) && arm(peer, EPOLL_CTL_MOD, OF_UFFD) == -ENOMEM) {
    pf_sleep_until(pf_now_ns() + LATER_NS);
    pf_peers_turn(peer);
  }
}

static bool attend(uint64_t key) {
  pf_peer_t *peer = take(key >> 1);
  unsigned served = 0;
  if (peer == NULL) {
    return false;
  }
  if ((key & 1) == OF_PIDFD) {
    pf_peers_lock(peer);
    pf_peer_ended(peer);
    pf_unlock(&peer->lock);
  } else {
    served = pf_peers_turn(peer);
    arm_again(peer);
  }
  pf_peers_drop(peer);
  return served > 0;
}

/* Faults that wait for an event of their process, which may have been read, or for memory: whatever messages others have. *looked_ns: when last. */
static void attend_later(uint64_t *looked_ns) {
  if (atomic_load(&laters) == 0 || pf_now_ns() - *looked_ns < LATER_NS) {
    return;
  }
  *looked_ns = pf_now_ns();
  for (size_t slot = 0; slot < PF_PEERS_MAX && atomic_load(&laters) > 0; slot++) {
    pf_peer_t *peer = take_at(slot);
    if (peer != NULL) {
      if (peer->later) {
        pf_peers_turn(peer);
      }
      pf_peers_drop(peer);
    }
  }
}

/* Looks for a while before it sleeps, as long as that pays (a message that comes soon after we went to sleep would have been caught); one thread at a time. */
static void *attending(void *unused) {
  static _Atomic bool somebody_looks;
  uint64_t window = 0, until = 0, slept_at = 0, looked_later = 0;
  bool looks = false;
  prctl(PR_SET_NAME, "pagefault peers");
  for (;;) {
    struct epoll_event event;
    uint64_t now = pf_now_ns();
    bool looking = looks && now < until;
    if (looks && !looking) {
      window = window / 2 < LEAST_BUSY_NS ? 0 : window / 2;
      looks = false;
      atomic_store(&somebody_looks, false);
    }
    if (!looking) {
      slept_at = now;
    }
    int got = epoll_wait(poll_fd, &event, 1, looking ? 0 : atomic_load(&laters) > 0 ? 1 : -1);
    if (got == 0 && looking) {
      sched_yield();
    }
    attend_later(&looked_later);
    if (got <= 0 || !attend(event.data.u64)) {
      continue;
    }
    now = pf_now_ns();
    if (looking || now - slept_at < 2 * BUSY_NS) {
      window = BUSY_NS;
    }
    bool nobody = false;
    looks = window > 0 && (looks || atomic_compare_exchange_strong(&somebody_looks, &nobody, true));
    until = now + window;
  }
  return unused;
}

/* --- from outside ----------------------------------------------------------------------------------------------------------------------------------- */

static const pf_peer_host_t host = {pf_peers_tell, pf_peers_fetch};
static unsigned attending_threads; /* under the table's lock */

static int start(unsigned threads) {
  int err = 0;
  pf_lock(&table_lock);
  if (poll_fd < 0) {
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    err = poll_fd < 0 ? -errno : 0;
  }
  while (err == 0 && attending_threads < threads && attending_threads < ATTENDING_MAX) {
    err = pf_thread_start_detached(attending, NULL, PF_PEERS_STACK);
    attending_threads += err == 0;
  }
  err = attending_threads > 0 ? 0 : err;
  pf_unlock(&table_lock);
  return err;
}

int pf_peers_open(unsigned threads, uint32_t *number, int *note_fd) {
  sigset_t before;
  int err = -EMFILE, fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), fd_err = -errno;
  pf_note_t *notes = malloc(NOTES * sizeof *notes);
  if (fd < 0 || notes == NULL) {
    err = fd < 0 ? fd_err : -ENOMEM;
    goto failed;
  }
  pf_mask_signals(&before);
  err = start(threads);
  pf_lock(&notes_lock);
  for (uint32_t i = 0; err == 0 && i <= PF_OWNERS_MAX; i++) {
    if (i == PF_OWNERS_MAX) {
      err = -EMFILE;
    } else if (!owners[i].used) {
      owners[i] = (owner_t){true, fd, 0, 0, notes};
      *number = i;
      *note_fd = fd;
      break;
    }
  }
  pf_unlock(&notes_lock);
  pf_restore_signals(&before);
  if (err == 0) {
    return 0;
  }
failed:
  free(notes);
  if (fd >= 0) {
    close(fd);
  }
  return err;
}

/* 0 or -errno with neither of the two. */
static int arm_both(const pf_peer_t *peer) {
  int err = arm(peer, EPOLL_CTL_ADD, OF_UFFD);
  if (err != 0) {
    return err;
  }
  err = arm(peer, EPOLL_CTL_ADD, OF_PIDFD);
  if (err != 0) {
    epoll_ctl(poll_fd, EPOLL_CTL_DEL, peer->uffd, NULL);
  }
  return err;
}

static void remove_peer(pf_peer_t *peer, bool kill) {
  pf_lock(&peer->lock);
  atomic_store(&peer->closing, 1);
  if (kill && !peer->gone) {
    pf_peer_kill(peer);
  }
  epoll_ctl(poll_fd, EPOLL_CTL_DEL, peer->uffd, NULL);
  epoll_ctl(poll_fd, EPOLL_CTL_DEL, peer->pidfd, NULL);
  if (peer->later) {
    peer->later = false;
    atomic_fetch_sub(&laters, 1);
  }
  pf_unlock(&peer->lock);
}

bool pf_peers_remove(uint64_t id, bool kill) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&table_lock);
  pf_peer_t *peer = table[id % PF_PEERS_MAX];
  bool found = peer != NULL && peer->id == id;
  if (found) {
    table[id % PF_PEERS_MAX] = NULL;
  }
  pf_unlock(&table_lock);
  if (found) {
    remove_peer(peer, kill);
    pf_peers_forget(peer);
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return found;
}

void pf_peers_close(uint32_t number) {
  for (size_t slot = 0; slot < PF_PEERS_MAX; slot++) {
    sigset_t before;
    pf_mask_signals(&before);
    pf_lock(&table_lock);
    uint64_t id = table[slot] != NULL && table[slot]->owner == number ? table[slot]->id : 0;
    bool supervised = id != 0 && table[slot]->supervised;
    pf_unlock(&table_lock);
    pf_restore_signals(&before);
    if (id != 0) {
      pf_peers_remove(id, !supervised);
    }
  }
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&notes_lock);
  owner_t old = owners[number];
  owners[number] = (owner_t){0};
  pf_unlock(&notes_lock);
  pf_restore_signals(&before);
  if (old.used) {
    close(old.fd);
    free(old.notes);
  }
}

int pf_peers_add(uint32_t owner, const pf_peer_options_t *options, uint64_t *id) {
  sigset_t before;
  pf_peer_t *peer;
  pf_peer_options_t with = *options;
  with.host = &host;
  int err = pf_peer_make(&with, &peer);
  if (err != 0) {
    return err;
  }
  peer->owner = owner;
  pf_mask_signals(&before);
  pf_lock(&table_lock);
  size_t slot = 0;
  while (slot < PF_PEERS_MAX && table[slot] != NULL) {
    slot++;
  }
  err = slot < PF_PEERS_MAX ? 0 : -EMFILE;
  if (err == 0) {
    peer->id = *id = ++generation * PF_PEERS_MAX + slot;
    err = arm_both(peer);
    table[slot] = err == 0 ? peer : NULL; /* whoever hears of it already waits for the lock */
  }
  pf_unlock(&table_lock);
  pf_restore_signals(&before);
  if (err != 0) {
    peer->uffd = peer->pidfd = -1; /* stay the caller's */
    pf_peers_drop(peer);
  }
  return err;
}

bool pf_peers_look(uint64_t id, pf_peer_view_t *out) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_peer_t *peer = take(id);
  if (peer != NULL) {
    pf_peers_lock(peer);
    out->numbers = peer->numbers;
    memcpy(out->tids, peer->tids, sizeof out->tids);
    out->pages = peer->pages;
    out->age_ns = pf_now_ns() - peer->added_ns;
    out->replay_left = peer->replay_count - peer->replay_at;
    out->replay_left += out->replay_left == 0 && peer->replay_threads > 0; /* what is under way */
    out->trace_count = peer->trace_count;
    pf_unlock(&peer->lock);
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return peer != NULL;
}

int64_t pf_peers_areas(uint64_t id, pf_area_t *out, size_t most, bool stop) {
  sigset_t before;
  int64_t count = -ESRCH;
  pf_mask_signals(&before);
  pf_peer_t *peer = take(id);
  if (peer != NULL) {
    pf_peers_lock(peer);
    if (stop) {
      atomic_store(&peer->closing, 1);
      await_copies(peer);
    }
    count = (int64_t)peer->area_count;
    memcpy(out, peer->areas, (peer->area_count < most ? peer->area_count : most) * sizeof *out);
    pf_unlock(&peer->lock);
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return count;
}

size_t pf_peers_trace(uint64_t id, size_t from, uint32_t *pages, double *at_us, size_t most) {
  sigset_t before;
  size_t count = 0;
  pf_mask_signals(&before);
  pf_peer_t *peer = take(id);
  if (peer != NULL) {
    pf_peers_lock(peer);
    for (; count < most && from + count < peer->trace_count; count++) {
      pages[count] = peer->trace[from + count];
      at_us[count] = (double)peer->trace_ns[from + count] / 1000;
    }
    pf_unlock(&peer->lock);
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return count;
}

int pf_peers_replay(uint64_t id, const uint32_t *pages, size_t count) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_peer_t *peer = take(id);
  int err = peer == NULL ? -ESRCH : pf_peers_replay_list(peer, pages, count);
  if (peer != NULL) {
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return err;
}

bool pf_peers_retry(uint64_t id) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_peer_t *peer = take(id);
  if (peer != NULL) {
    pf_peers_lock(peer);
    pf_peer_retry(peer);
    pf_unlock(&peer->lock);
    pf_peers_drop(peer);
  }
  pf_restore_signals(&before);
  return peer != NULL;
}
