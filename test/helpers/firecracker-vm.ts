/** VMs as `serveFirecracker` sees them: runs of `firecracker.c`, ordered about line by line, and snapshots that they know by heart. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { custom, type StoreRef } from 'pagefault/stores';
import { VM_MODES, VM_STORE } from '../fixtures/vm-store.js';
import { compileC } from './compile-c.js';
import { fillStored } from './guest-program.js';

const TIMEOUT_MS = 60_000;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-vm-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
let program: string | undefined;
let made = 0;

/** A path for a socket or a file that goes away with the process. */
export function freshPath(name = 's'): string {
  made += 1;
  return join(folder, `${name}${made}`);
}

/** The bytes of the snapshot that the simulator expects. */
export function storedBytes(byteLength: number, offset = 0): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  fillStored(offset, bytes);
  return bytes;
}

/** A memory file of the simulator. */
export function memoryFile(byteLength: number): string {
  const path = freshPath('memory');
  writeFileSync(path, storedBytes(byteLength));
  return path;
}

/** A file that is a hole but for these parts. */
export async function writeSparse(
  path: string,
  byteLength: number,
  parts: readonly (readonly [number, Uint8Array])[],
): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(byteLength);
  for (const [offset, bytes] of parts) await file.write(bytes, 0, bytes.byteLength, offset);
  await file.close();
}

/** The first word at an offset of the snapshot, as the simulator prints it. */
export function wordAt(offset: number): string {
  const [word = 0n] = new BigUint64Array(storedBytes(8, offset).buffer);
  return word.toString(16).padStart(16, '0');
}

/** A store whose page at `page` is had, cannot be had, or is not answered for. */
export class VmStore {
  readonly ref: StoreRef;
  readonly #control = new Int32Array(new SharedArrayBuffer(4 * VM_STORE.length));

  constructor(byteLength: number, page: number, mode: (typeof VM_MODES)[number] = 'well') {
    this.ref = custom(new URL('../fixtures/vm-store.js', import.meta.url), {
      byteLength,
      control: this.#control.buffer,
    });
    Atomics.store(this.#control, VM_STORE.page, page);
    this.mode = mode;
  }

  set mode(mode: (typeof VM_MODES)[number]) {
    Atomics.store(this.#control, VM_STORE.mode, VM_MODES.indexOf(mode));
  }

  /** How often the page was asked for. */
  get asked(): number {
    return Atomics.load(this.#control, VM_STORE.asked);
  }
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** One run. It is killed after a while, whatever happens. */
export class SimulatedVm {
  readonly pid: number;
  readonly ended: Promise<Ended>;
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #waiting: ((line: string | undefined) => void)[] = [];
  #over = false;

  private constructor(socket: string, args: readonly string[], timeoutMs: number) {
    program ??= compileC('firecracker.c');
    const child = spawn(program, [socket, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child = child;
    this.pid = child.pid ?? 0;
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    createInterface({ input: child.stdout }).on('line', (line) => {
      const next = this.#waiting.shift();
      if (next === undefined) this.#lines.push(line);
      else next(line);
    });
    child.stdin.on('error', () => {}); // it has ended, which is told
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        clearTimeout(timer);
        this.#over = true;
        for (const next of this.#waiting.splice(0)) next(undefined);
        resolve({ code, signal });
      });
    });
  }

  /** Starts one, whatever it says first. */
  static start(socket: string, args: readonly string[] = []): SimulatedVm {
    return new SimulatedVm(socket, args, TIMEOUT_MS);
  }

  /** Starts one that has sent its handshake. */
  static async ready(socket: string, args: readonly string[] = [], timeoutMs = TIMEOUT_MS): Promise<SimulatedVm> {
    const vm = new SimulatedVm(socket, args, timeoutMs);
    assert.match((await vm.line()) ?? 'it has ended', /^ready/);
    return vm;
  }

  /** Its next line; undefined: it has ended. */
  line(): Promise<string | undefined> {
    const line = this.#lines.shift();
    if (line !== undefined || this.#over) return Promise.resolve(line);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Its answer; undefined: it has ended. */
  order(text: string): Promise<string | undefined> {
    this.#child.stdin?.write(`${text}\n`);
    return this.line();
  }

  /** The answer must be this one. */
  async must(text: string, answer = 'ok'): Promise<void> {
    assert.equal(await this.order(text), answer, text);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Ends it in peace. */
  async exit(): Promise<void> {
    this.#child.stdin?.end();
    await this.ended;
  }
}
