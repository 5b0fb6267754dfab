/**
 * Looks at a server of guests for as long as it runs: answers for metrics, and writes what happens as events. The server need not know: it is
 * looked at once an interval, and listened to where it has events. The server's thread.
 */
import { outOfRange, shown } from '../errors/argument.js';
import { reasonOf } from '../errors/reason.js';
import { checkKeys } from '../options/keys.js';
import { quantile } from '../segment/stats.js';
import { EventLog } from './event-log.js';
import { MetricsServer } from './metrics-server.js';
import {
  type GuestSnapshot,
  type ObservedClient,
  type ObservedGuest,
  type ObservedServer,
  type RestoreProgress,
  snapshotOf,
  snapshotOfGuest,
} from './observed.js';

export interface ObserveServerOptions {
  /** A port of 127.0.0.1 for /metrics (Prometheus) and /guests (JSON, for `pagefault top`); 0: any that is free. @default none */
  metricsPort?: number;
  /** A file that is appended to, or '-' for stdout: a JSON object a line. @default none */
  events?: string;
  /** Milliseconds between two looks at the numbers, for events; at least 10. @default 1000 */
  intervalMs?: number;
}

const WHO = 'observeServer()';
const MAX_INTERVAL_MS = 2 ** 31 - 1;

/** What is known of a guest between two looks. */
interface Seen {
  readonly guest: ObservedGuest;
  readonly pageFailed: (error: unknown, where?: unknown) => void;
  readonly gone: () => void;
  /** As last told, to say only what is new. */
  told: string;
  restored: string;
  /** For a guest whose numbers went with it. */
  last: GuestSnapshot | undefined;
}

/** @internal */
interface ObservationParts {
  readonly log: EventLog | undefined;
  readonly metrics: MetricsServer | undefined;
  readonly restores: WeakMap<ObservedGuest, RestoreProgress>;
}

/** Goes on until it is closed. The server is to be closed by its owner. */
export class Observation implements AsyncDisposable {
  readonly #server: ObservedServer;
  readonly #log: EventLog | undefined;
  readonly #metrics: MetricsServer | undefined;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #seen = new Map<ObservedGuest, Seen>();
  /** Told so already, though the server may still list them. */
  readonly #gone = new WeakSet<ObservedGuest>();
  readonly #restores: WeakMap<ObservedGuest, RestoreProgress>;
  readonly #listeners: Readonly<Record<string, (...args: unknown[]) => void>> = {
    guest: (guest) => this.#add(guest as ObservedGuest),
    progress: (guest, done, total) => this.#progress(guest as ObservedGuest, Number(done), Number(total)),
    refused: (who, why) => this.tell('refused', { ...clientOf(who), error: described(why ?? who) }),
    warning: (error) => this.tell('warning', { error: described(error) }),
    client: (client) => this.tell('client', clientOf(client)),
    gone: (who) => this.#left(who),
    pageerror: (error, where) => this.#notHad(error, where),
  };
  #over = false;

  /** @internal */
  constructor(server: ObservedServer, parts: ObservationParts, intervalMs: number) {
    this.#server = server;
    this.#log = parts.log;
    this.#metrics = parts.metrics;
    this.#restores = parts.restores;
    this.tell('serving', { serverPid: process.pid, metricsPort: this.metricsPort });
    for (const [event, listener] of Object.entries(this.#listeners)) server.on?.(event, listener);
    if (parts.log === undefined) return;
    this.look();
    this.#timer = setInterval(() => this.look(), intervalMs);
    this.#timer.unref();
  }

  /** The port that metrics are served on; undefined: they are not. */
  get metricsPort(): number | undefined {
    return this.#metrics?.port;
  }

  /** Writes an event of the server's own. */
  tell(event: string, fields: Readonly<Record<string, unknown>> = {}): void {
    if (!this.#over) this.#log?.write({ event, ...fields });
  }

  /** Looks now, and writes what is new since the last look. */
  look(): void {
    if (this.#log === undefined || this.#over) return;
    const now = new Set(this.#server.guests ?? []);
    for (const guest of now) this.#add(guest);
    for (const [guest, seen] of this.#seen) {
      if (now.has(guest)) this.#tellNumbers(seen);
      else this.#remove(seen);
    }
  }

  /** Writes the last numbers, ends the endpoint. */
  async close(): Promise<void> {
    if (this.#over) return;
    clearInterval(this.#timer);
    this.look();
    for (const seen of this.#seen.values()) this.#forget(seen);
    for (const [event, listener] of Object.entries(this.#listeners)) this.#server.off?.(event, listener);
    this.tell('closed');
    this.#over = true;
    await Promise.all([this.#log?.close(), this.#metrics?.close()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #add(guest: ObservedGuest): void {
    if (this.#log === undefined || this.#over || this.#seen.has(guest) || this.#gone.has(guest)) return;
    const seen: Seen = {
      guest,
      pageFailed: (error, where) =>
        this.tell('pageerror', { ...named(guest), ...located(where), error: described(error) }),
      gone: () => this.#remove(seen),
      told: '',
      restored: '',
      last: undefined,
    };
    this.#seen.set(guest, seen);
    guest.on?.('pageerror', seen.pageFailed);
    guest.on?.('gone', seen.gone);
    this.tell('guest', named(guest));
    this.#tellNumbers(seen);
  }

  /** What is loaded ahead is told often: only its end is told at once, the rest with the numbers. */
  #progress(guest: ObservedGuest, done: number, total: number): void {
    this.#restores.set(guest, { done, total });
    const seen = this.#seen.get(guest);
    if (seen !== undefined && done >= total) this.#tellRestore(seen, { done, total });
  }

  /** Of guests it is known already. */
  #left(who: unknown): void {
    const client = clientOf(who);
    if ('client' in client) this.tell('gone', client);
  }

  #notHad(error: unknown, where: unknown): void {
    const client: unknown = typeof where === 'object' && where !== null ? Reflect.get(where, 'client') : undefined;
    if (client === undefined) return;
    this.tell('pageerror', {
      ...clientOf(client),
      address: Reflect.get(Object(where), 'address'),
      error: described(error),
    });
  }

  #forget({ guest, pageFailed, gone }: Seen): void {
    guest.off?.('pageerror', pageFailed);
    guest.off?.('gone', gone);
    this.#seen.delete(guest);
  }

  #remove(seen: Seen): void {
    if (!this.#seen.has(seen.guest)) return;
    this.#forget(seen);
    this.#gone.add(seen.guest);
    const snapshot = snapshotOfGuest(seen.guest, this.#restores) ?? seen.last;
    this.tell('gone', { ...named(seen.guest), ...(snapshot === undefined ? {} : numbered(snapshot)) });
  }

  #tellNumbers(seen: Seen): void {
    const snapshot = snapshotOfGuest(seen.guest, this.#restores);
    if (snapshot === undefined) return;
    seen.last = snapshot;
    const { atUs: _, ...counts } = snapshot.numbers;
    const now = JSON.stringify(counts);
    if (now !== seen.told) this.tell('numbers', { ...named(seen.guest), ...numbered(snapshot) });
    seen.told = now;
    if (snapshot.restore !== undefined) this.#tellRestore(seen, snapshot.restore);
  }

  #tellRestore(seen: Seen, restore: RestoreProgress): void {
    const now = JSON.stringify(restore);
    if (now === seen.restored) return;
    seen.restored = now;
    const { done, total } = restore;
    this.tell(done >= total ? 'restored' : 'restore', { ...named(seen.guest), done, total });
  }
}

/**
 * Makes a server of guests visible from outside: Prometheus metrics on 127.0.0.1, `pagefault top`, and events as lines of JSON.
 * Neither keeps the process alive, neither makes a guest wait. No privilege.
 *
 * @throws TypeError, RangeError: a wrong option. SystemError: the port is taken (EADDRINUSE), the file cannot be written to. Nothing is open then.
 * @example
 * const observation = await observeServer(server, { metricsPort: 9090, events: 'guests.ndjson' });
 */
export async function observeServer(server: ObservedServer, options: ObserveServerOptions = {}): Promise<Observation> {
  checkKeys(WHO, options, ['metricsPort', 'events', 'intervalMs']);
  const { metricsPort, events, intervalMs = 1000 } = options;
  if (!Number.isFinite(intervalMs) || intervalMs < 10 || intervalMs > MAX_INTERVAL_MS) {
    throw outOfRange(`${WHO}: intervalMs must be from 10 to ${MAX_INTERVAL_MS}, not ${shown(intervalMs)}`);
  }
  const restores = new WeakMap<ObservedGuest, RestoreProgress>();
  const look = () => snapshotOf(server, restores);
  const metrics = metricsPort === undefined ? undefined : await MetricsServer.listen(metricsPort, look);
  try {
    const log = events === undefined ? undefined : EventLog.open(events);
    return new Observation(server, { log, metrics, restores }, intervalMs);
  } catch (error) {
    await metrics?.close();
    throw error;
  }
}

function named({ id, name, pid }: ObservedGuest): Record<string, unknown> {
  return { guest: name, id, pid };
}

/** Empty for whoever is no client of a page server. */
function clientOf(who: unknown): Record<string, unknown> {
  if (typeof who !== 'object' || who === null || !('peer' in who)) return {};
  const { id, peer } = who as ObservedClient;
  return { client: id, pid: peer.pid };
}

function numbered({ numbers }: GuestSnapshot): Record<string, unknown> {
  const { histogram } = numbers;
  return { p50Ns: quantile(histogram, 0.5), p99Ns: quantile(histogram, 0.99), numbers };
}

function located(where: unknown): Record<string, unknown> {
  const offset: unknown = typeof where === 'object' && where !== null ? Reflect.get(where, 'offset') : undefined;
  return offset === undefined ? {} : { offset };
}

function described(error: unknown): Record<string, unknown> {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
  return { ...(typeof code === 'string' ? { code } : {}), message: reasonOf(error) };
}
