import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createFailures, sourceOf } from "../../server/auth/failures.ts";

const ATTACKER = "198.51.100.7";

function slowed() {
  let now = 0;
  const failures = createFailures({ clock: () => now });
  return {
    ...failures,
    pass: (seconds: number) => {
      now += seconds * 1000;
    },
    fail(times: number, address = ATTACKER) {
      for (let at = 0; at < times; at++) failures.failed(address);
    },
  };
}

describe("an address that fails", () => {
  test("a few times is not slowed, and after ten times ever more, up to a minute", () => {
    const { mayTry, fail, pass } = slowed();
    fail(9);
    expect(mayTry(ATTACKER)).toBe(0);
    const waits = Array.from({ length: 9 }, () => {
      fail(1);
      const wait = mayTry(ATTACKER);
      pass(wait);
      expect(mayTry(ATTACKER)).toBe(0);
      return wait;
    });
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
  });

  test("now and then is never slowed", () => {
    const { mayTry, fail, pass } = slowed();
    for (let at = 0; at < 100; at++) {
      fail(1);
      pass(7);
      expect(mayTry(ATTACKER)).toBe(0);
    }
  });

  test("is forgiven after a quiet minute", () => {
    const { mayTry, fail, pass } = slowed();
    fail(12);
    pass(mayTry(ATTACKER) + 60);
    fail(9);
    expect(mayTry(ATTACKER)).toBe(0);
  });

  test("slows no other address", () => {
    const { mayTry, fail } = slowed();
    fail(100);
    expect(mayTry(ATTACKER)).toBe(60);
    expect(mayTry("198.51.100.8")).toBe(0);
  });

  test("gains nothing by succeeding with another credential in between", () => {
    const { mayTry, fail, pass, succeeded } = slowed();
    let tries = 0;
    for (let second = 0; second < 600; second++) {
      succeeded(ATTACKER);
      if (mayTry(ATTACKER) === 0) {
        fail(1);
        tries++;
      }
      pass(1);
    }
    // Ten free, six while the wait grows, and then about two a minute.
    expect(tries).toBeLessThan(40);
  });

  test("is remembered, however many others fail, as long as it is among the last ten thousand", () => {
    const { mayTry, fail } = slowed();
    const other = (at: number) => `10.${at >> 16}.${(at >> 8) & 255}.${at & 255}`;
    fail(20);
    for (let at = 0; at < 9_999; at++) fail(1, other(at));
    expect(mayTry(ATTACKER)).toBe(60);
    fail(1, other(9_999));
    expect(mayTry(ATTACKER)).toBe(0);
  });
});

describe("whom an address stands for", () => {
  test.each([
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:DB8:1:2::1", "2001:db8:1:2::/64"],
    ["2001:db8::1", "2001:db8:0:0::/64"],
    ["::1", "0:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ["::ffff:198.51.100.7", "198.51.100.7"],
    ["::FFFF:c633:6407", "198.51.100.7"],
    ["198.51.100.7", "198.51.100.7"],
    ["", ""],
  ])("%s is %s", (address, source) => {
    expect(sourceOf(address)).toBe(source);
  });

  test("every address of an IPv6 prefix is the same, however it is written", () => {
    fc.assert(
      fc.property(fc.tuple(fc.ipV6(), fc.ipV6()), ([one, other]) => {
        const prefix = /^(.*)::\/64$/.exec(sourceOf(one))?.[1];
        fc.pre(prefix !== undefined);
        const suffix = Array.from({ length: 4 }, (_, at) => ((other.length * 31 + at) & 0xffff).toString(16)).join(":");
        expect(sourceOf(`${prefix}:${suffix}`)).toBe(sourceOf(one));
      }),
    );
  });
});
