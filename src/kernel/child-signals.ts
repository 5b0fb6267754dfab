/** SIGCHLD for any number of listeners with one handler of the process. Main thread only: Workers get no signals. */

const listeners = new Set<() => void>();

/** Each on its own, so that what one throws does not keep the others from being told. */
function tell(): void {
  for (const listener of listeners) process.nextTick(listener);
}

/** Calls back after a child has ended, stopped or continued (some of these may be merged). Returns the end of it. */
export function onChildSignal(listener: () => void): () => void {
  if (listeners.size === 0) process.on('SIGCHLD', tell);
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) process.off('SIGCHLD', tell);
  };
}
