/* What the kernel says of one thread of this process. In a handler too. */
#ifndef PF_TASK_H
#define PF_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The beginning of its "stat", "status", "syscall" or "comm" in /proc, with a 0 at its end. Its length, or -errno: also where no descriptor is left, or no /proc. */
ssize_t pf_task_read(pid_t tid, const char *file, char *text, size_t size);

/* That it is no more; needs neither. */
bool pf_task_has_ended(pid_t tid);

#endif
