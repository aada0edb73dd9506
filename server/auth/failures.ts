import { isIPv6 } from "node:net";

/**
 * Slows down addresses that fail to say who they are, again and again.
 *
 * {@link Failures.mayTry} is for a credential that is not known to be good already: a key that is in the register, or a
 * token whose signature was found right before, is let through without asking. So an office behind one address works
 * on while somebody in it, or a program with an old key, fails: only what fails is slowed. Nothing is lost by that, for
 * nobody finds 256 random bits at any speed; what is kept down is what failing costs others, checks of signatures,
 * requests for signing keys and lines in the audit.
 *
 * A success does not wipe out an address's failures, or whoever has one key of little worth could try others at full
 * speed, with a success after every ninth failure. It takes one step of the slowing back, once a minute; quiet does the
 * rest.
 */
export interface Failures {
  /** Seconds, in whole ones, that the address has to wait before an unknown credential of its is looked at; 0: none. */
  mayTry(address: string): number;
  /** Notes that a credential from this address was none. */
  failed(address: string): void;
  /** Notes that one was. */
  succeeded(address: string): void;
}

interface FailuresOptions {
  /** Milliseconds of a clock that never goes back. Default: `performance.now`. */
  readonly clock?: () => number;
}

/** Failures within this time count together, and quiet for as long after a wait ends the slowing. */
const WINDOW_MS = 60_000;
/** So many of them cost nothing: a client that starts with an old key asks a few times. */
const FREE_FAILURES = 10;
/** The first wait; each failure after it doubles it. */
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 60_000;
/** A step beyond which the wait does not grow. */
const LAST_STEP = Math.ceil(Math.log2(LONGEST_WAIT_MS / FIRST_WAIT_MS)) + 1;
/** Addresses that are remembered; those that failed longest ago are forgotten first. */
const ADDRESSES_LIMIT = 10_000;

interface Failing {
  /** Start of the window that `count` is of. */
  since: number;
  count: number;
  /** How often the wait has been doubled, and once more; 0 while failing is free. */
  step: number;
  until: number;
  /** When a success last took a step back. */
  eased: number;
}

export function createFailures({ clock = () => performance.now() }: FailuresOptions = {}): Failures {
  /** Least recently failed first. */
  const addresses = new Map<string, Failing>();

  /** What is remembered of an address, if that still counts. */
  const failingAt = (source: string, now: number): Failing | undefined => {
    const failing = addresses.get(source);
    if (failing === undefined || now < Math.max(failing.since, failing.until) + WINDOW_MS) return failing;
    addresses.delete(source);
    return undefined;
  };

  return {
    mayTry(address) {
      const now = clock();
      const until = failingAt(sourceOf(address), now)?.until ?? now;
      return Math.max(0, Math.ceil((until - now) / 1000));
    },
    failed(address) {
      const now = clock();
      const source = sourceOf(address);
      const failing = failingAt(source, now) ?? { since: now, count: 0, step: 0, until: now, eased: now };
      failing.count++;
      if (failing.count >= FREE_FAILURES || failing.step > 0) {
        failing.step = Math.min(failing.step + 1, LAST_STEP);
        failing.until = now + Math.min(FIRST_WAIT_MS * 2 ** (failing.step - 1), LONGEST_WAIT_MS);
      }
      addresses.delete(source);
      addresses.set(source, failing);
      const [oldest] = addresses.keys();
      if (addresses.size > ADDRESSES_LIMIT && oldest !== undefined) addresses.delete(oldest);
    },
    succeeded(address) {
      const now = clock();
      const failing = failingAt(sourceOf(address), now);
      if (failing === undefined || failing.step === 0 || now < failing.eased + WINDOW_MS) return;
      failing.eased = now;
      failing.step--;
    },
  };
}

/**
 * Who is slowed: an IPv4 address, or the 64-bit prefix of an IPv6 address, of which one customer has all (RFC 6177).
 * IPv4 addresses in IPv6 form are themselves.
 */
export function sourceOf(address: string): string {
  const [bare = ""] = address.split("%");
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(bare)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(bare)) return address;
  // The URL parser writes every form of an address in one.
  const [head = "", tail] = (URL.parse(`http://[${bare}]`)?.hostname.slice(1, -1) ?? bare).split("::");
  const groups = head === "" ? [] : head.split(":");
  const rest = tail === undefined || tail === "" ? [] : tail.split(":");
  const all = tail === undefined ? groups : [...groups, ...Array(8 - groups.length - rest.length).fill("0"), ...rest];
  const [a, b, c, d, e, f, g = "0", h = "0"] = all;
  if (a === "0" && b === "0" && c === "0" && d === "0" && e === "0" && f === "ffff") return ipv4(g, h);
  return `${all.slice(0, 4).join(":")}::/64`;
}

function ipv4(high: string, low: string): string {
  return [high, low].flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff]).join(".");
}
