/** What the pages of guests are: an image that never changes, read once and kept once whatever the number of guests. Main thread or Worker that has the engine. */

import { createHash } from 'node:crypto';
import { type BigIntStats, closeSync, constants, fstatSync, openSync } from 'node:fs';
import { constants as os } from 'node:os';
import { resolve } from 'node:path';
import { outOfRange, shown, wrongType } from '../../errors/argument.js';
import { GuestError } from '../../errors/guest-error.js';
import { reasonOf } from '../../errors/reason.js';
import { StoreError } from '../../errors/store-error.js';
import { systemError } from '../../kernel/descriptor.js';
import { native } from '../../native/load.js';
import { checkKeys } from '../../options/keys.js';
import type { Segment } from '../../segment/index.js';
import { storeIdentity } from '../../segment/store-identity.js';
import type { StoreRef, ZeroRef } from '../../stores/ref.js';

/** The path of a memory file; several, of which a later one has what changed (its holes are the earlier ones'); a store; a segment that is open. */
export type SnapshotSource = string | readonly string[] | StoreRef | Segment;

export interface SnapshotOptions {
  /** How long a store may take for a page. @default 30000 */
  faultTimeoutMs?: number;
  /** Bytes that a store is asked for at once, at the least. @default the system's page size */
  pageSize?: number;
}

const WHO = 'Snapshot.open()';

function isSegment(source: object): source is Segment {
  const { pin, address } = source as Partial<Segment>;
  return typeof pin === 'function' && typeof address === 'bigint';
}

/** What a file is, so that another one, or the same one later, is told apart. */
function identityOf({ dev, ino, size, mtimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}`;
}

function hashOf(parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

interface OpenLayer {
  readonly path: string;
  readonly fd: number;
  readonly stats: BigIntStats;
}

function cannotOpen(path: string, error: unknown): StoreError {
  const { code, errno, syscall } = error as NodeJS.ErrnoException;
  const why = code === 'ENOENT' ? 'there is no such file (ENOENT)' : reasonOf(error);
  const details = { cause: error, errno: errno === undefined ? undefined : Math.abs(errno), syscall };
  return new StoreError('ERR_PAGEFAULT_STORE_OPEN', `${WHO}: ${path} cannot be opened: ${why}`, details);
}

function openLayer(path: string): OpenLayer {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK); // a FIFO must not hold it up
  } catch (error) {
    throw cannotOpen(path, error);
  }
  const stats = fstatSync(fd, { bigint: true });
  if (stats.isFile() && stats.size > 0n) return { path, fd, stats };
  closeSync(fd);
  const what = stats.isFile() ? 'is empty' : 'is no regular file';
  throw new StoreError(
    stats.isFile() ? 'ERR_PAGEFAULT_STORE_EMPTY' : 'ERR_PAGEFAULT_STORE_OPEN',
    `${WHO}: ${path} ${what}`,
  );
}

/** By the core's number, which is nobody's once the segment is closed. */
interface SegmentNamed {
  readonly id: number;
  readonly name: string;
  readonly pageSize: number;
}

interface SnapshotParts {
  readonly id: number;
  readonly byteLength: number;
  readonly identity: string;
  readonly segment?: SegmentNamed;
  readonly close: () => Promise<void>;
}

function openFiles(paths: readonly string[]): SnapshotParts {
  if (paths.length === 0 || paths.length > 64) {
    throw outOfRange(`${WHO}: a snapshot has 1 to 64 layers, not ${paths.length}`);
  }
  const layers: OpenLayer[] = [];
  try {
    for (const path of paths) layers.push(openLayer(resolve(path)));
    const [base] = layers;
    if (base === undefined) throw new TypeError('unreachable');
    const byteLength = Number(base.stats.size);
    const odd = layers.find(({ stats }) => stats.size !== base.stats.size);
    if (odd !== undefined) {
      const sentence = `${WHO}: ${odd.path} has ${odd.stats.size} bytes and ${base.path} ${byteLength}: layers of one snapshot are of one length`;
      throw outOfRange(sentence);
    }
    const id = native().snapshotOfFiles(
      Int32Array.from(layers, ({ fd }) => fd),
      byteLength,
      layers.length,
    );
    if (id < 0) throw systemError(`${WHO}: ${paths.join(', ')} cannot be mapped`, -id, 'mmap');
    const identity = hashOf(['files', ...layers.map(({ stats }) => identityOf(stats))]);
    return { id, byteLength, identity, close: async () => {} };
  } finally {
    for (const { fd } of layers) closeSync(fd); // the core has its own
  }
}

function ofSegment(segment: Segment, identity: string, close: () => Promise<void>): SnapshotParts {
  const id = native().snapshotOfSegment(segment.coreId, segment.byteLength);
  if (id < 0) throw systemError(`${WHO}: segment "${segment.name}" cannot be a snapshot`, -id, 'malloc');
  const named = { id: segment.coreId, name: segment.name, pageSize: segment.pageSize };
  return { id, byteLength: segment.byteLength, identity, segment: named, close };
}

/** Nothing is read and nothing copied: the engine zeroes pages. */
async function openZeroes(store: ZeroRef): Promise<SnapshotParts> {
  const { byteLength } = store;
  const identity = await storeIdentity(store, 0);
  const id = native().snapshotOfZeroes(byteLength);
  if (id < 0) throw systemError(`${WHO}: zero(${byteLength}) cannot be a snapshot`, -id, 'malloc');
  return { id, byteLength, identity, close: async () => {} };
}

async function openStore(store: StoreRef, options: SnapshotOptions): Promise<SnapshotParts> {
  const { map } = await import('../../segment/index.js');
  const { faultTimeoutMs = 30_000, pageSize } = options;
  const segment = await map(store, { faultTimeoutMs, ...(pageSize === undefined ? {} : { pageSize }) });
  try {
    return ofSegment(segment, await storeIdentity(store, 0), () => segment.close());
  } catch (error) {
    await segment.close();
    throw error;
  }
}

/** Counted by the core: a guest keeps it. */
export class Snapshot {
  /** Bytes. What a region has beyond them reads zero. */
  readonly byteLength: number;
  /** 64 hexadecimal digits: of the files (device, inode, size, time of change), or of what the store was named by. Working sets are bound to it. */
  readonly identity: string;
  /** That its pages are of; undefined: they are of files. @internal */
  readonly segment: SegmentNamed | undefined;
  readonly #id: number;
  readonly #close: () => Promise<void>;
  #closed = false;
  /** While it is waited for guests. */
  #closing: Promise<void> | undefined;

  private constructor(parts: SnapshotParts) {
    this.byteLength = parts.byteLength;
    this.identity = parts.identity;
    this.segment = parts.segment;
    this.#id = parts.id;
    this.#close = parts.close;
  }

  /**
   * Files are mapped: what was read is in the page cache, once, and holes cost neither a read nor a copy. Other stores are read through a segment of their own,
   * which keeps what it has read; a segment that is given stays the caller's, who keeps it open as long as the snapshot.
   * @throws {StoreError} a file or store that cannot be opened. RangeError: layers of different lengths.
   */
  static async open(source: SnapshotSource, options: SnapshotOptions = {}): Promise<Snapshot> {
    checkKeys(WHO, options, ['faultTimeoutMs', 'pageSize']);
    if (typeof source === 'string') return new Snapshot(openFiles([source]));
    if (Array.isArray(source)) return new Snapshot(openFiles(source as readonly string[]));
    if (typeof source !== 'object' || source === null) {
      throw wrongType(`${WHO}: a snapshot is a path, a list of paths, a store or a segment, not ${shown(source)}`);
    }
    if (isSegment(source)) {
      return new Snapshot(ofSegment(source, await source.identity(), async () => {}));
    }
    const store = source as StoreRef;
    if (store.kind === 'zero') return new Snapshot(await openZeroes(store));
    const whole = store.kind === 'file' && store.offset === 0 && store.byteLength === undefined;
    return new Snapshot(whole ? openFiles([store.path]) : await openStore(store, options));
  }

  /** Of a segment, without an identity: to find that out may be to read it all. @internal */
  static unnamed(segment: Segment): Snapshot {
    return new Snapshot(ofSegment(segment, '', async () => {}));
  }

  /** The core's number of it. @internal */
  get id(): number {
    if (this.#closed) throw new GuestError('ERR_PAGEFAULT_GUEST_GONE', 'the snapshot is closed');
    return this.#id;
  }

  /** How many of its bytes are not zero by being in a hole, and in how many runs. */
  extents(): { byteLength: number; runs: number } {
    const out = new Float64Array(2);
    native().snapshotExtents(this.id, out);
    const [byteLength = 0, runs = 0] = out;
    return { byteLength, runs };
  }

  /** @throws {SystemError} EBUSY: guests use it. */
  async close(): Promise<void> {
    this.#closing ??= this.#letGo().finally(() => {
      this.#closing = undefined;
    });
    await this.#closing;
  }

  async #letGo(): Promise<void> {
    if (this.#closed) return;
    for (let patience = 100; ; patience--) {
      const result = native().snapshotClose(this.#id);
      if (result === 0) break;
      if (result !== -os.errno.EBUSY || patience === 0) {
        throw systemError('the snapshot cannot be closed while guests use it', -result, 'close');
      }
      await new Promise((done) => setTimeout(done, 10)); // a guest that has just ended lets go of it
    }
    this.#closed = true;
    await this.#close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
