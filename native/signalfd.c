/*
 * Signals as a descriptor (signalfd). A signal that is sent to the process goes to any thread that does not block it, and a signalfd gets
 * it only when all of them do. Node has about ten threads, made long before we come. A thread's mask is changed only by itself: so each is
 * sent a real-time signal, and our handler changes the mask that the return from it will restore.
 *
 * A message says which signals it is about; whether they are to be blocked is looked up when it arrives: so one that masks everything for a
 * moment does it later, and does what holds then. Any thread may call; one at a time, under `lock`, which the handler does not take. The
 * handler stays installed for ever, because there are threads that mask everything for ever.
 */
#include "process.h"

#include "sync.h"
#include "task.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PATIENCE_NS 1000000000ULL
#define LOOK_NS 200000ULL    /* between two looks at /proc */
#define SETTLE_LOOKS 50      /* at threads that mask everything: for a moment (a fork, a new thread), or for ever */
#define KNOWN_MAX 256
/* Of the C library's own, which programs cannot block: whoever does is inside of it, for a moment. glibc makes threads and processes so,
 * and a thread that is made then gets the mask that its maker had before. */
#define IN_LIBRARY PF_SIGNAL_BIT(33)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int messenger;  /* the real-time signal; 0: none yet */
static _Atomic uint64_t taken; /* signals that a descriptor has */
typedef struct {
  pid_t thread;
  uint64_t kept;  /* it blocked them before we came, and keeps that */
  uint64_t asked; /* what the messages are about that wait for it */
  unsigned spread, since; /* the number of the spread in which it was seen last, and of the look of it in which it was seen first */
  bool told; /* in this spread */
} known_t;
static known_t known[KNOWN_MAX + 1]; /* the last one stands for those that have no place: a message at a time */
static size_t known_count;
static unsigned spreads;
static pid_t *threads; /* scratch for list_threads, kept */
static size_t threads_room;

/* --- in the thread that is asked ----------------------------------------------------------------------------------------------- */

static void on_messenger(int number, siginfo_t *info, void *context) {
  (void)number;
  if (info->si_code != SI_QUEUE || info->si_pid != getpid()) {
    return;
  }
  ucontext_t *uc = context;
  uint64_t mask, signals = (uintptr_t)info->si_value.sival_ptr;
  memcpy(&mask, &uc->uc_sigmask, sizeof mask); /* the kernel's part of the set is its first 64 bits */
  mask = (mask & ~signals) | (signals & atomic_load(&taken));
  memcpy(&uc->uc_sigmask, &mask, sizeof mask);
}

static bool is_ours(int number) {
  struct sigaction now;
  return sigaction(number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_messenger;
}

/* The first free real-time signal of those that programs may use, with our handler. `wanted`: none of these. */
static int ensure_messenger(uint64_t wanted) {
  if (messenger != 0 && is_ours(messenger)) {
    return 0;
  }
  for (int number = SIGRTMIN + 1; number <= SIGRTMAX; number++) {
    struct sigaction now;
    if (sigaction(number, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL ||
        ((taken | wanted) & PF_SIGNAL_BIT(number)) != 0) {
      continue;
    }
    struct sigaction ours = {.sa_sigaction = on_messenger, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigfillset(&ours.sa_mask);
    if (sigaction(number, &ours, NULL) == 0) {
      messenger = number;
      return 0;
    }
  }
  return -EAGAIN;
}

/* --- all threads --------------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t blocked, pending;
} thread_masks_t;

static uint64_t field_of(const char *text, const char *name) {
  const char *at = strstr(text, name);
  return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 16);
}

/* 1, or 0: the thread has ended. -errno: it cannot be told. */
static int masks_of(pid_t thread, thread_masks_t *out) {
  char text[4096];
  ssize_t len = pf_task_read(thread, "status", text, sizeof text);
  if (len < 0) {
    return pf_task_has_ended(thread) ? 0 : (int)len;
  }
  *out = (thread_masks_t){.blocked = field_of(text, "\nSigBlk:"), .pending = field_of(text, "\nSigPnd:")};
  return 1;
}

static known_t *know(pid_t thread) {
  size_t i = 0;
  while (i < known_count && known[i].thread != thread) {
    i++;
  }
  if (i == known_count) {
    known_count += i < KNOWN_MAX;
    known[i] = (known_t){.thread = thread, .asked = i < KNOWN_MAX ? 0 : UINT64_MAX};
  }
  return &known[i];
}

/* Threads that have ended are forgotten: others get their numbers. `count`: of `threads`. */
static void forget_ended(ssize_t count) {
  size_t left = 0;
  for (size_t i = 0; i < known_count; i++) {
    ssize_t at = 0;
    while (at < count && threads[at] != known[i].thread) {
      at++;
    }
    if (at < count && ((known[i].kept | known[i].asked) != 0 || known[i].spread == spreads)) {
      known[left++] = known[i];
    }
  }
  known_count = left;
}

static void forget_kept(uint64_t signals) {
  for (size_t i = 0; i < known_count; i++) {
    known[i].kept &= ~signals;
  }
}

typedef struct {
  uint64_t signals;
  bool blocking;
  bool first; /* the look that finds what was blocked before */
  unsigned look, last; /* threads that are seen first after `last` need not be waited for: their makers had heard when they were made */
} request_t;

typedef struct {
  unsigned undone, masked;
  unsigned passing, makers; /* in the C library; of these, there before this look */
  int err; /* not all could be looked at */
} progress_t;

static bool send_message(pid_t thread, uint64_t what) {
  siginfo_t info = {0};
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_ptr = (void *)(uintptr_t)what;
  return syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, messenger, &info) == 0;
}

/* Looks at one thread, and asks it if need be; it is not done while an older message is yet to come, either. In the handler a thread masks
 * everything too, but no message waits for it then. */
static void ask(pid_t thread, const request_t *request, progress_t *progress) {
  thread_masks_t masks;
  int there = thread == (pid_t)syscall(SYS_gettid) ? 0 : masks_of(thread, &masks);
  if (there <= 0) {
    progress->err = there < 0 ? there : progress->err;
    return;
  }
  known_t *about = know(thread);
  if (about->spread != spreads) {
    about->spread = spreads;
    about->since = request->look;
    about->told = false;
  }
  uint64_t message = PF_SIGNAL_BIT(messenger);
  uint64_t signals = request->blocking ? request->signals : request->signals & ~about->kept;
  bool masked = (masks.blocked & message) != 0, passing = (masks.blocked & IN_LIBRARY) != 0, waits = (masks.pending & message) != 0;
  about->asked = waits ? about->asked : 0;
  if (!waits && (masked ? about->told : (signals & (request->blocking ? ~masks.blocked : masks.blocked)) == 0)) {
    return;
  }
  progress->passing += passing && about->since <= request->last;
  progress->makers += passing && (about->since < request->look || request->look == 1);
  progress->masked += masked && !passing;
  progress->undone += !masked;
  if ((signals & ~about->asked) != 0) { /* with what the earlier ones are about: if any of them waits, the last one does */
    bool sent = send_message(thread, about->asked | signals);
    about->asked |= sent ? signals : 0;
    about->told = sent;
    progress->undone += !sent;
  }
}

/* What a thread had blocked before, unless it masks everything, or has yet to hear of a descriptor that was closed: it keeps that when we
 * go. */
static void note(pid_t thread, uint64_t signals, progress_t *progress) {
  thread_masks_t masks;
  int there = masks_of(thread, &masks);
  progress->err = there < 0 ? there : progress->err;
  if (there > 0 && ((masks.blocked | masks.pending) & PF_SIGNAL_BIT(messenger)) == 0 && (masks.blocked & signals) != 0) {
    know(thread)->kept |= masks.blocked & signals;
  }
}

/* Reads the list to its end before anybody looks at a thread, so that one descriptor is enough: closing has just freed one. Their
 * number, or -errno; under `lock`. */
static ssize_t list_threads(void) {
  DIR *tasks = opendir("/proc/self/task");
  if (tasks == NULL) {
    return -errno;
  }
  ssize_t count = 0;
  for (;;) {
    errno = 0; /* what tells an end from a failure */
    struct dirent *entry = readdir(tasks);
    if (entry == NULL) {
      count = errno == 0 ? count : -errno;
      break;
    }
    pid_t thread = (pid_t)atoi(entry->d_name);
    if (thread <= 0) {
      continue;
    }
    if ((size_t)count == threads_room) {
      pid_t *more = realloc(threads, 2 * (threads_room + 32) * sizeof *more);
      if (more == NULL) {
        count = -ENOMEM;
        break;
      }
      threads = more;
      threads_room = 2 * (threads_room + 32);
    }
    threads[count++] = thread;
  }
  closedir(tasks);
  return count;
}

static progress_t each_thread(const request_t *request) {
  progress_t progress = {0};
  ssize_t count = list_threads();
  progress.err = count < 0 ? (int)count : 0;
  if (count >= 0) {
    forget_ended(count);
  }
  for (ssize_t i = 0; i < count; i++) {
    if (request->first) {
      note(threads[i], request->signals, &progress);
    } else {
      ask(threads[i], request, &progress);
    }
  }
  return progress;
}

/* Until every thread has done it, twice in a row: a thread may be born of one that had not. Threads that mask everything are given a
 * moment, those in the C library all the time that there is; those that do it for ever cannot be killed by the signal either. Blocking
 * fails at once where threads cannot be looked at (no descriptor is left); unblocking waits for one. */
static int spread(uint64_t signals, bool blocking) {
  request_t request = {.signals = signals, .blocking = blocking, .last = UINT_MAX};
  spreads++;
  uint64_t deadline = pf_now_ns() + PATIENCE_NS;
  unsigned looks = 0, clean = 0;
  while (clean < 2) {
    request.look++;
    progress_t progress = each_thread(&request);
    if (progress.err != 0 && blocking) {
      return progress.err;
    }
    if (request.last == UINT_MAX && progress.err == 0 && progress.undone == 0 && progress.makers == 0) {
      request.last = request.look + 1; /* whoever was born while this was looked at is seen then */
    }
    bool late = pf_now_ns() > deadline;
    bool settled = late || (progress.passing == 0 && (progress.masked == 0 || ++looks > SETTLE_LOOKS));
    bool done = progress.err == 0 && progress.undone == 0 && settled;
    clean = done ? clean + 1 : 0;
    if (!done && late) {
      return -ETIMEDOUT;
    }
    if (!done) {
      pf_sleep_until(pf_now_ns() + LOOK_NS);
    }
  }
  return 0;
}

static void to_set(uint64_t signals, sigset_t *set) {
  sigemptyset(set);
  for (int number = 1; number <= 64; number++) {
    if ((signals & PF_SIGNAL_BIT(number)) != 0) {
      sigaddset(set, number);
    }
  }
}

/* --- open, close --------------------------------------------------------------------------------------------------------------- */

/* A thread that does not answer within a second keeps them blocked until it does. */
static void unblock_everywhere(uint64_t signals) {
  sigset_t set;
  spread(signals, false);
  to_set(signals & ~know((pid_t)syscall(SYS_gettid))->kept, &set);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  forget_kept(signals);
}

static int open_locked(uint64_t signals) {
  sigset_t set;
  if ((taken & signals) != 0 || (messenger != 0 && (signals & PF_SIGNAL_BIT(messenger)) != 0)) {
    return -EBUSY;
  }
  int err = ensure_messenger(signals);
  if (err != 0) {
    return err;
  }
  request_t first = {.signals = signals, .blocking = true, .first = true};
  err = each_thread(&first).err;
  if (err != 0) {
    forget_kept(signals);
    return err;
  }
  taken |= signals;
  to_set(signals, &set);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  err = spread(signals, true);
  int fd = err == 0 ? signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK) : err;
  if (fd == -1 && err == 0) {
    fd = -errno;
  }
  if (fd < 0) {
    taken &= ~signals;
    unblock_everywhere(signals);
  }
  return fd;
}

int pf_signals_open(uint64_t signals) {
  pthread_mutex_lock(&lock);
  int fd = open_locked(signals);
  pthread_mutex_unlock(&lock);
  return fd;
}

/* Where the action of a signal is the default one it is ignored for a moment, which drops what is pending: else the process that read
 * nothing more would be killed by what it did not read. Returns the signals to be set back. */
static uint64_t ignore_pending(uint64_t signals) {
  uint64_t ignored = 0;
  for (int number = 1; number <= 64; number++) {
    struct sigaction now, none = {.sa_handler = SIG_IGN};
    if ((signals & PF_SIGNAL_BIT(number)) == 0 || number == SIGCHLD || sigaction(number, NULL, &now) != 0) {
      continue;
    }
    if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL && sigaction(number, &none, NULL) == 0) {
      ignored |= PF_SIGNAL_BIT(number);
    }
  }
  return ignored;
}

/* But what another thread has given an action meanwhile. */
static void set_default(uint64_t signals) {
  for (int number = 1; number <= 64; number++) {
    struct sigaction now, standard = {.sa_handler = SIG_DFL};
    if ((signals & PF_SIGNAL_BIT(number)) == 0 || sigaction(number, &standard, &now) != 0) {
      continue;
    }
    if ((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_IGN) {
      sigaction(number, &now, NULL);
    }
  }
}

int pf_signals_close(int fd, uint64_t signals) {
  pthread_mutex_lock(&lock);
  close(fd);
  taken &= ~signals;
  uint64_t ignored = ignore_pending(signals);
  unblock_everywhere(signals);
  set_default(ignored);
  if ((signals & PF_SIGNAL_BIT(SIGCHLD)) != 0) {
    kill(getpid(), SIGCHLD); /* whoever waits for children looks for those that ended meanwhile */
  }
  pthread_mutex_unlock(&lock);
  return 0;
}

int pf_signals_read(int fd, pf_signal_t *out, size_t max) {
  struct signalfd_siginfo infos[16];
  size_t most = sizeof infos / sizeof *infos;
  ssize_t len;
  do {
    len = read(fd, infos, (max < most ? max : most) * sizeof *infos);
  } while (len < 0 && errno == EINTR);
  if (len < 0) {
    return -errno;
  }
  int count = (int)((size_t)len / sizeof *infos);
  for (int i = 0; i < count; i++) {
    const struct signalfd_siginfo *info = &infos[i];
    out[i] = (pf_signal_t){info->ssi_signo, info->ssi_code, info->ssi_pid, info->ssi_uid, info->ssi_status};
  }
  return count;
}
