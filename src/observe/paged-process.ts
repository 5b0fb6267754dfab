/** A child process of `spawnPaged` as a guest that can be observed. The pager's thread. */
import type { PagedProcess } from '../guests/process.js';
import type { ObservedGuest } from './observed.js';

/**
 * The child with its numbers: `{ guests: children.map((child) => observedProcess(child)) }` is a server for `observeServer`. Block times are
 * those of the service, and are not told apart by thread.
 */
export function observedProcess(child: PagedProcess, name = `child ${child.pid}`): ObservedGuest {
  const cameAt = performance.now();
  return {
    id: child.pid,
    name,
    pid: child.pid,
    numbers: () => {
      const { faults, duplicates, pages, ahead, bytes, removed, retries, failures } = child.stats();
      return {
        faults: faults + duplicates,
        blockedUs: child.latencies.sum / 1000,
        histogram: child.latencies.powersOfTwo(),
        demand: pages - ahead,
        prefetched: ahead,
        removed,
        duplicates,
        failures,
        retries,
        pages: child.regions.reduce((sum, region) => sum + region.pages.states.length, 0),
        present: child.regions.reduce((sum, region) => sum + region.pages.resident, 0),
        bytesCopied: bytes,
        atUs: Math.round((performance.now() - cameAt) * 1000),
      };
    },
    on: (event, listener) => child.on(event, listener),
    off: (event, listener) => child.off(event, listener),
  };
}
