/** `servePages`: a store as a page server. Any thread with an event loop. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { StoreError } from '../errors/store-error.js';
import { checkKeys } from '../options/keys.js';
import { parseSize, type Size } from '../options/sizes.js';
import { checkWirePageSize, PAGE_BYTES } from '../stores/uds/protocol.js';
import { listenAt } from './listen.js';
import { PageReader } from './page-reader.js';
import { PageServer } from './page-server.js';
import { openPageSource } from './page-source.js';
import { nameSource } from './page-source-failure.js';
import { ADDRESSES, checkAddress } from './pager-options.js';
import type { GuestStore } from './source.js';

const WHO = 'servePages()';

export interface ServePagesOptions {
  /**
   * The address by which clients ask for the store's first byte.
   * @default 0n
   */
  base?: bigint;
  /**
   * The largest page that is answered, in bytes or as '2MiB': a power of two from 4096 to 2 MiB.
   * @default '2MiB'
   */
  maxPageSize?: Size;
  /**
   * Clients at once; more wait until one leaves.
   * @default 1024
   */
  maxClients?: number;
  /**
   * Permissions of the socket's file: who may write to it may read all of the store.
   * @default 0o600
   */
  mode?: number;
  /**
   * How long a page may take before it is given up and the connection that asked for it is closed.
   * @default 30000
   */
  faultTimeoutMs?: number;
  /** Closes the server. */
  signal?: AbortSignal;
}

const KNOWN: readonly (keyof ServePagesOptions)[] = [
  'base',
  'maxPageSize',
  'maxClients',
  'mode',
  'faultTimeoutMs',
  'signal',
];

function wholeNumber(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number') throw wrongType(`${WHO}: ${name} must be a number, not ${shown(value)}`);
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw outOfRange(`${WHO}: ${name} must be a whole number from ${least} to ${most}, not ${value}`);
}

interface Checked {
  readonly base: bigint;
  readonly maxPageSize: number;
  readonly maxClients: number;
  readonly mode: number;
  readonly faultTimeoutMs: number;
}

function check(socketPath: unknown, store: unknown, options: ServePagesOptions): Checked {
  if (typeof socketPath !== 'string')
    throw wrongType(`${WHO}: the socket's path must be a string, not ${shown(socketPath)}`);
  if (typeof store !== 'object' || store === null) {
    throw wrongType(`${WHO}: there is no store, such as file('vm.mem'), but ${shown(store)}`);
  }
  checkKeys(WHO, options, KNOWN);
  const {
    base = 0n,
    maxPageSize = PAGE_BYTES.most,
    maxClients = 1024,
    mode = 0o600,
    faultTimeoutMs = 30_000,
  } = options;
  checkAddress(`${WHO}: base`, base);
  if (base % BigInt(PAGE_BYTES.least) !== 0n) {
    throw outOfRange(`${WHO}: base must be a multiple of ${PAGE_BYTES.least}, and 0x${base.toString(16)} is not`);
  }
  return {
    base,
    maxPageSize: checkWirePageSize(`${WHO}: maxPageSize`, parseSize(`${WHO}: maxPageSize`, maxPageSize)),
    maxClients: wholeNumber('maxClients', maxClients, 1, 1_000_000),
    mode: wholeNumber('mode', mode, 0, 0o777),
    faultTimeoutMs: wholeNumber('faultTimeoutMs', faultTimeoutMs, 1, 2 ** 31 - 1),
  };
}

/**
 * Serves a store at a Unix socket, to any number of clients that speak the page server protocol: `uds()`, `Pager`, and others
 * (docs/guests/page-server.md has the bytes). It keeps the process alive until it is closed.
 *
 * A socket that a process of this user left behind is replaced; whatever else is at the path stays, and is an error.
 *
 * @param store What `pagefault/stores` makes, an open segment, or an object with `byteLength` and `read`. The last two stay yours to close.
 * @throws SystemError the path cannot be had: EADDRINUSE, ENOENT, EACCES …; StoreError, PageSourceError the store cannot be opened;
 * TypeError, RangeError for wrong arguments
 * @example
 * const server = await servePages('/run/pages.sock', file('vm.mem'), { base: 0x8000_0000n });
 */
export async function servePages(
  socketPath: string,
  store: GuestStore,
  options: ServePagesOptions = {},
): Promise<PageServer> {
  const { base, mode, faultTimeoutMs, ...limits } = check(socketPath, store, options);
  const { signal } = options;
  signal?.throwIfAborted();
  const source = await openPageSource(WHO, store, faultTimeoutMs);
  try {
    const { byteLength } = source;
    if (byteLength === 0) {
      throw new StoreError('ERR_PAGEFAULT_STORE_EMPTY', `${WHO}: ${nameSource(store).name} has no bytes to serve`);
    }
    if (byteLength !== undefined && base + BigInt(byteLength) > ADDRESSES) {
      throw outOfRange(`${WHO}: ${byteLength} bytes from base 0x${base.toString(16)} would go beyond 2^64`);
    }
    const counts = { retries: 0 };
    const reader = new PageReader(
      nameSource(store),
      async () => source,
      faultTimeoutMs,
      () => {
        counts.retries += 1;
      },
    );
    await reader.open(); // the reader closes it
    signal?.throwIfAborted();
    const listener = listenAt(WHO, socketPath, { mode });
    const server = new PageServer({ listener, reader, base, byteLength, counts, ...limits });
    const abort = (): void => void server.close().catch(() => {}); // `close` tells whoever asks
    signal?.addEventListener('abort', abort, { once: true });
    return server;
  } catch (error) {
    await source.close().catch(() => {});
    throw error;
  }
}
