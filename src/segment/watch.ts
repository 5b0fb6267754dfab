/**
 * What goes on while a thread has segments open: once a second, by a timer that does not keep the process alive, failures
 * and lost signal handlers become events, and stores of segments that ended elsewhere are closed. One a thread.
 */

import { isMainThread } from 'node:worker_threads';
import { native } from '../native/load.js';
import { HandlerLostEvent, PageErrorEvent } from './events.js';
import { failureError, type Region } from './region.js';

const INTERVAL_MS = 1000;

/** A region that this thread no longer holds, but whose store it still has open. */
interface Lingering {
  id: number;
  ended: () => Promise<void>;
}

interface Watched {
  region: Region;
  target: WeakRef<EventTarget>;
}

const watched = new Map<Region, Watched>();
const lingering = new Set<Lingering>();
let timer: NodeJS.Timeout | undefined;
let reinstalls: number | undefined;
let started = false;

/** Told once a process and thread, on first use of the core. */
function start(): void {
  if (started) return;
  started = true;
  if (isMainThread) process.on('exit', (code) => native().exiting(code));
}

function look(): void {
  const count = native().checkHandlers();
  const lost = reinstalls !== undefined && count > reinstalls;
  reinstalls = count;
  for (const { region, target } of watched.values()) {
    const segment = target.deref();
    if (segment === undefined || region.closed) continue;
    if (lost) segment.dispatchEvent(new HandlerLostEvent(count));
    for (const failure of region.call((core, id) => core.regionTakeFailures(id))) {
      segment.dispatchEvent(new PageErrorEvent(failureError(failure)));
      if (region.closed) break;
    }
  }
  for (const store of lingering) {
    if (native().regionIsOpen(store.id)) continue;
    lingering.delete(store);
    store.ended().catch(() => {}); // nobody is left to be told
  }
  rest();
}

function run(): void {
  if (timer !== undefined) return;
  reinstalls ??= native().checkHandlers();
  timer = setInterval(look, INTERVAL_MS).unref();
}

function rest(): void {
  if (watched.size > 0 || lingering.size > 0) return;
  clearInterval(timer);
  timer = undefined;
}

/** Closes the store once the region has ended, which another thread or the collector will bring about. */
export function linger(id: number, ended: () => Promise<void>): void {
  lingering.add({ id, ended });
  run();
}

interface Collected {
  region: Region;
  ended: (() => Promise<void>) | undefined;
}

/** A segment collected unclosed, and its buffer with it: its region ends here. */
const collected = new FinalizationRegistry<Collected>(({ region, ended }) => {
  watched.delete(region);
  native().regionClose(region.id, undefined, false);
  region.close();
  if (ended !== undefined) linger(region.id, ended);
  rest();
});

/** Segments live as long as their buffers: a view may be all that the user keeps, beside a listener. */
const owners = new WeakMap<ArrayBufferLike, EventTarget>();

export function keepWith(buffer: ArrayBufferLike, segment: EventTarget): void {
  owners.set(buffer, segment);
}

/** From here to `unwatch` the segment gets its events. */
export function watch(region: Region, segment: EventTarget, ended: (() => Promise<void>) | undefined): void {
  start();
  watched.set(region, { region, target: new WeakRef(segment) });
  collected.register(segment, { region, ended }, region);
  run();
}

export function unwatch(region: Region): void {
  watched.delete(region);
  collected.unregister(region);
  rest();
}
