/**
 * The endpoint of `--metrics PORT`: /metrics for Prometheus, /guests as JSON for `pagefault top`. It listens on 127.0.0.1 and nowhere else,
 * answers nothing but these two, and never keeps the process alive. The thread that made it.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { constants } from 'node:os';
import { outOfRange, shown } from '../errors/argument.js';
import { systemError } from '../kernel/descriptor.js';
import { METRICS_TYPE, renderMetrics } from './metrics.js';
import type { ServerSnapshot } from './observed.js';

const HOST = '127.0.0.1';
const MAX_PORT = 65_535;
const MAX_CONNECTIONS = 32;
const TIMEOUT_MS = 10_000;
const MAX_HEADER = 8192;
/** A page in a browser that makes a name of its own point here must not read what only this machine may. */
const OWN_NAMES: ReadonlySet<string> = new Set([HOST, 'localhost']);

const { EADDRINUSE, EACCES } = constants.errno;

/** Listens until it is closed. */
export class MetricsServer {
  readonly port: number;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
  }

  /**
   * @param port 0: any that is free
   * @param look called for each request
   * @throws RangeError the port is none; SystemError EADDRINUSE, EACCES
   */
  static async listen(port: number, look: () => ServerSnapshot): Promise<MetricsServer> {
    checkPort(port);
    const server = createServer({ maxHeaderSize: MAX_HEADER, requestTimeout: TIMEOUT_MS, headersTimeout: TIMEOUT_MS });
    server.maxConnections = MAX_CONNECTIONS;
    server.on('request', (request, response) => answer(request, response, look));
    server.unref();
    await new Promise<void>((resolve, reject) => {
      const failed = (error: NodeJS.ErrnoException): void => reject(listenFailure(port, error));
      server.once('error', failed);
      server.listen(port, HOST, () => {
        server.off('error', failed);
        server.on('error', () => {}); // a connection that could not be accepted for want of a descriptor
        resolve();
      });
    });
    return new MetricsServer(server);
  }

  /** Ends connections at once. */
  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }
}

/** Throws unless `port` is one; 0 stands for any. */
export function checkPort(port: unknown): asserts port is number {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= MAX_PORT) return;
  throw outOfRange(`the port for metrics must be an integer from 0 (any) to ${MAX_PORT}, not ${shown(port)}`);
}

function listenFailure(port: number, error: NodeJS.ErrnoException): Error {
  const errno = Math.abs(error.errno ?? 0);
  const sentences: Record<number, string> = {
    [EADDRINUSE]: 'something listens there already; 0 stands for any port that is free',
    [EACCES]: 'ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE',
  };
  const why = sentences[errno] ?? 'it failed';
  return systemError(`metrics cannot be served on ${HOST}:${port}: ${why}`, errno, 'bind');
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

function answer(request: IncomingMessage, response: ServerResponse, look: () => ServerSnapshot): void {
  request.resume();
  const { status, type, body } = answerTo(request, look);
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...(status === 405 ? { allow: 'GET, HEAD' } : {}),
  });
  response.end(body); // of an answer to HEAD Node sends the headers only
}

function answerTo({ method, url = '', headers }: IncomingMessage, look: () => ServerSnapshot): Answer {
  const [path] = url.split('?', 1);
  if (!isOwnName(headers.host)) return refusal(421, 'this endpoint is for 127.0.0.1');
  if (path !== '/metrics' && path !== '/guests')
    return refusal(404, 'there are /metrics (Prometheus) and /guests (JSON)');
  if (method !== 'GET' && method !== 'HEAD') return refusal(405, 'GET or HEAD');
  if (path === '/metrics') return { status: 200, type: METRICS_TYPE, body: renderMetrics(look()) };
  return { status: 200, type: 'application/json', body: `${JSON.stringify(look())}\n` };
}

function refusal(status: number, sentence: string): Answer {
  return { status, type: 'text/plain; charset=utf-8', body: `${sentence}\n` };
}

/** Whatever port it was asked by: it may have been forwarded. */
function isOwnName(host: string | undefined): boolean {
  return host !== undefined && OWN_NAMES.has(host.replace(/:\d+$/, '').toLowerCase());
}
