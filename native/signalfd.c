/*
 * Signals as a descriptor (signalfd). A signal that is sent to the process goes to any thread that does not block it, and a signalfd gets
 * it only when all of them do. Node has about ten threads, made long before we come. A thread's mask is changed only by itself: so each is
 * sent a real-time signal, and our handler changes the mask that the return from it will restore.
 *
 * What a thread shall do comes with the message, which the kernel queues in order: so one that masks everything for a moment does it later,
 * and in the right order. Any thread may call; one at a time, under `lock`, which the handler does not take. The handler stays installed
 * for ever, because there are threads that mask everything for ever.
 */
#include "process.h"

#include "sync.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#define KEPT_MAX 256
#define UNBLOCK (1ULL << 31) /* beside the signals in a message; no signal of ours: the C library has number 32 */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int messenger;  /* the real-time signal; 0: none yet */
static uint64_t taken; /* signals that a descriptor has */
static struct {
  pid_t thread;
  uint64_t signals;
} kept[KEPT_MAX]; /* who blocked what before we came, and keeps it */
static size_t kept_count;
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
  mask = (signals & UNBLOCK) != 0 ? mask & ~(signals & ~UNBLOCK) : mask | signals;
  memcpy(&uc->uc_sigmask, &mask, sizeof mask);
}

static bool is_ours(int number) {
  struct sigaction now;
  return sigaction(number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_messenger;
}

/* The first free real-time signal of those that programs may use, with our handler. */
static int ensure_messenger(void) {
  if (messenger != 0 && is_ours(messenger)) {
    return 0;
  }
  for (int number = SIGRTMIN + 1; number <= SIGRTMAX; number++) {
    struct sigaction now;
    if (sigaction(number, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL ||
        (taken & PF_SIGNAL_BIT(number)) != 0) {
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

/* 1, or 0: the thread has ended. */
static int masks_of(pid_t thread, thread_masks_t *out) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)thread);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return errno == ENOENT || errno == ESRCH ? 0 : -errno;
  }
  ssize_t len = read(fd, text, sizeof text - 1);
  int err = len < 0 && errno != ESRCH ? -errno : 0;
  close(fd);
  if (len <= 0) {
    return err;
  }
  text[len] = '\0';
  *out = (thread_masks_t){.blocked = field_of(text, "\nSigBlk:"), .pending = field_of(text, "\nSigPnd:")};
  return 1;
}

static void keep(pid_t thread, uint64_t signals) {
  for (size_t i = 0; i < kept_count; i++) {
    if (kept[i].thread == thread) {
      kept[i].signals |= signals;
      return;
    }
  }
  if (kept_count < KEPT_MAX) {
    kept[kept_count].thread = thread;
    kept[kept_count++].signals = signals;
  }
}

static uint64_t kept_by(pid_t thread) {
  for (size_t i = 0; i < kept_count; i++) {
    if (kept[i].thread == thread) {
      return kept[i].signals;
    }
  }
  return 0;
}

static void forget_kept(uint64_t signals) {
  size_t left = 0;
  for (size_t i = 0; i < kept_count; i++) {
    kept[i].signals &= ~signals;
    if (kept[i].signals != 0) {
      kept[left++] = kept[i];
    }
  }
  kept_count = left;
}

typedef struct {
  uint64_t signals;
  bool blocking;
  bool first; /* the look that finds what was blocked before */
} request_t;

typedef struct {
  unsigned undone, masked;
  int err; /* not all could be looked at */
} progress_t;

static void send_message(pid_t thread, uint64_t what) {
  siginfo_t info = {0};
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_ptr = (void *)(uintptr_t)what;
  syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, messenger, &info);
}

/* Looks at one thread, and asks it if need be. In the handler a thread masks everything too, but no message waits for it then. */
static void ask(pid_t thread, const request_t *request, progress_t *progress) {
  thread_masks_t masks;
  int there = thread == (pid_t)syscall(SYS_gettid) ? 0 : masks_of(thread, &masks);
  if (there <= 0) {
    progress->err = there < 0 ? there : progress->err;
    return;
  }
  uint64_t message = PF_SIGNAL_BIT(messenger);
  uint64_t signals = request->blocking ? request->signals : request->signals & ~kept_by(thread);
  bool masked = (masks.blocked & message) != 0;
  if (!masked && (signals & (request->blocking ? ~masks.blocked : masks.blocked)) == 0) {
    return;
  }
  progress->masked += masked;
  progress->undone += !masked;
  if ((masks.pending & message) == 0) {
    send_message(thread, request->blocking ? signals : signals | UNBLOCK);
  }
}

/* What a thread had blocked before, unless it masks everything: it keeps that when we go. */
static void note(pid_t thread, uint64_t signals, progress_t *progress) {
  thread_masks_t masks;
  int there = masks_of(thread, &masks);
  progress->err = there < 0 ? there : progress->err;
  if (there > 0 && (masks.blocked & PF_SIGNAL_BIT(messenger)) == 0 && (masks.blocked & signals) != 0) {
    keep(thread, masks.blocked & signals);
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
  for (struct dirent *entry = readdir(tasks); entry != NULL && count >= 0; entry = readdir(tasks)) {
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
 * moment; those that do it for ever cannot be killed by the signal either. Blocking fails at once where threads cannot be looked at (no
 * descriptor is left); unblocking waits for one. */
static int spread(uint64_t signals, bool blocking) {
  request_t request = {.signals = signals, .blocking = blocking};
  uint64_t deadline = pf_now_ns() + PATIENCE_NS;
  unsigned looks = 0, clean = 0;
  while (clean < 2) {
    progress_t progress = each_thread(&request);
    if (progress.err != 0 && blocking) {
      return progress.err;
    }
    bool done = progress.err == 0 && progress.undone == 0 && (progress.masked == 0 || ++looks > SETTLE_LOOKS);
    clean = done ? clean + 1 : 0;
    if (!done && pf_now_ns() > deadline) {
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
  to_set(signals & ~kept_by((pid_t)syscall(SYS_gettid)), &set);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  forget_kept(signals);
}

static int open_locked(uint64_t signals) {
  sigset_t set;
  if ((taken & signals) != 0 || (messenger != 0 && (signals & PF_SIGNAL_BIT(messenger)) != 0)) {
    return -EBUSY;
  }
  taken |= signals; /* so that none of them is picked as messenger */
  int err = ensure_messenger();
  if (err != 0) {
    taken &= ~signals;
    return err;
  }
  request_t first = {.signals = signals, .blocking = true, .first = true};
  err = each_thread(&first).err;
  if (err != 0) {
    taken &= ~signals;
    forget_kept(signals);
    return err;
  }
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

static void set_default(uint64_t signals) {
  for (int number = 1; number <= 64; number++) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    if ((signals & PF_SIGNAL_BIT(number)) != 0) {
      sigaction(number, &standard, NULL);
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
