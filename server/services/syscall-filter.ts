import { endianness } from "node:os";

/** What a filter refuses. */
export interface FilterRules {
  /** Processes and threads that no signal may reach: the server's. Empty where commands cannot name them anyway. */
  readonly protectedIds: readonly number[];
  /** Process group that no signal may reach, if any. */
  readonly protectedGroup?: number;
  /** Whether sockets other than Unix ones are refused. */
  readonly network: boolean;
}

/** System call numbers and the audit architecture (Linux, `asm/unistd_64.h`, `asm-generic/unistd.h`, `audit.h`). */
interface Architecture {
  readonly audit: number;
  /** Numbers from here on are another interface to the same kernel (x32), which the filter does not look into. */
  readonly foreignFrom?: number;
  readonly calls: Readonly<Record<Call, number>>;
}

type Call =
  | "kill"
  | "tkill"
  | "tgkill"
  | "rt_sigqueueinfo"
  | "rt_tgsigqueueinfo"
  | "pidfd_send_signal"
  | "fcntl"
  | "ioctl"
  | "socket"
  | "ptrace"
  | "process_vm_readv"
  | "process_vm_writev"
  | "io_uring_setup"
  | "unshare"
  | "setns"
  | "clone"
  | "clone3"
  | "prlimit64"
  | "sched_setaffinity"
  | "sched_setscheduler"
  | "sched_setparam"
  | "sched_setattr"
  | "setpriority"
  | "ioprio_set"
  | "migrate_pages"
  | "move_pages"
  | "bpf"
  | "perf_event_open"
  | "userfaultfd"
  | "keyctl"
  | "add_key"
  | "request_key";

const ARCHITECTURES: Readonly<Partial<Record<NodeJS.Architecture, Architecture>>> = {
  x64: {
    audit: 0xc000003e,
    foreignFrom: 0x40000000,
    calls: {
      kill: 62,
      tkill: 200,
      tgkill: 234,
      rt_sigqueueinfo: 129,
      rt_tgsigqueueinfo: 297,
      pidfd_send_signal: 424,
      fcntl: 72,
      ioctl: 16,
      socket: 41,
      ptrace: 101,
      process_vm_readv: 310,
      process_vm_writev: 311,
      io_uring_setup: 425,
      unshare: 272,
      setns: 308,
      clone: 56,
      clone3: 435,
      prlimit64: 302,
      sched_setaffinity: 203,
      sched_setscheduler: 144,
      sched_setparam: 142,
      sched_setattr: 314,
      setpriority: 141,
      ioprio_set: 251,
      migrate_pages: 256,
      move_pages: 279,
      bpf: 321,
      perf_event_open: 298,
      userfaultfd: 323,
      keyctl: 250,
      add_key: 248,
      request_key: 249,
    },
  },
  arm64: {
    audit: 0xc00000b7,
    calls: {
      kill: 129,
      tkill: 130,
      tgkill: 131,
      rt_sigqueueinfo: 138,
      rt_tgsigqueueinfo: 240,
      pidfd_send_signal: 424,
      fcntl: 25,
      ioctl: 29,
      socket: 198,
      ptrace: 117,
      process_vm_readv: 270,
      process_vm_writev: 271,
      io_uring_setup: 425,
      unshare: 97,
      setns: 268,
      clone: 220,
      clone3: 435,
      prlimit64: 261,
      sched_setaffinity: 122,
      sched_setscheduler: 119,
      sched_setparam: 118,
      sched_setattr: 274,
      setpriority: 140,
      ioprio_set: 30,
      migrate_pages: 238,
      move_pages: 239,
      bpf: 280,
      perf_event_open: 241,
      userfaultfd: 282,
      keyctl: 219,
      add_key: 217,
      request_key: 218,
    },
  },
};

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

const CLONE_NEWUSER = 0x10000000;
const AF_UNIX = 1;
/** Commands that make somebody else the receiver of a file's signals, which may be SIGKILL (F_SETSIG). */
const SET_OWNER = {
  fcntl: [8 /* F_SETOWN */, 15 /* F_SETOWN_EX */],
  ioctl: [0x8901 /* FIOSETOWN */, 0x8902 /* SIOCSPGRP */],
};
/** Calls that act on the process whose id is their nth argument, 0 being the caller itself. */
const ON_OTHERS: readonly (readonly [Call, number])[] = [
  ["prlimit64", 0],
  ["sched_setaffinity", 0],
  ["sched_setscheduler", 0],
  ["sched_setparam", 0],
  ["sched_setattr", 0],
  ["setpriority", 1],
  ["ioprio_set", 1],
  ["migrate_pages", 0],
  ["move_pages", 0],
];
/** Calls with no place in a command: ways into other processes, and the kernel's most attacked corners. */
const NEVER: readonly Call[] = [
  "ptrace",
  "process_vm_readv",
  "process_vm_writev",
  "setns",
  "bpf",
  "perf_event_open",
  "userfaultfd",
  "keyctl",
  "add_key",
  "request_key",
];

/** Classic BPF (Linux, `linux/bpf_common.h`, `linux/seccomp.h`). */
const LOAD = 0x20; // BPF_LD | BPF_W | BPF_ABS
const RETURN = 0x06; // BPF_RET | BPF_K
const JUMP_EQUAL = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_BITS = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const ALLOW = 0x7fff0000;
const ERROR = 0x00050000;
/** Offsets in `struct seccomp_data`. */
const NUMBER = 0;
const ARCHITECTURE = 4;
/** The low half of an argument: ids, flags and families all fit. Little-endian, as both architectures are. */
const argument = (index: number) => 16 + 8 * index;

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, k: number];

/**
 * A seccomp filter, as `setpriv --seccomp-filter` takes it: an array of `struct sock_filter`. Everything is allowed
 * but what the rules and the lists above name; those calls fail with an ordinary error. Undefined where the
 * processor's numbers are not known here.
 */
export function syscallFilter({ protectedIds, protectedGroup, network }: FilterRules): Buffer | undefined {
  const architecture = ARCHITECTURES[process.arch];
  if (architecture === undefined || endianness() !== "LE") return undefined;
  const { calls } = architecture;
  const program: Instruction[] = [];
  const fail = (errno: number): Instruction => [RETURN, 0, 0, ERROR | errno];
  const allow: Instruction = [RETURN, 0, 0, ALLOW];

  // 32-bit calls on a 64-bit kernel have other numbers, and would pass under the wrong name.
  program.push([LOAD, 0, 0, ARCHITECTURE], [JUMP_EQUAL, 1, 0, architecture.audit], fail(ENOSYS), [LOAD, 0, 0, NUMBER]);
  if (architecture.foreignFrom !== undefined) {
    program.push([JUMP_GREATER_EQUAL, 0, 1, architecture.foreignFrom], fail(ENOSYS));
  }

  /** Adds a block that runs for one call alone, and ends with a verdict. */
  const on = (call: Call, block: readonly Instruction[]) => {
    program.push([JUMP_EQUAL, 0, block.length, calls[call]], ...block);
  };
  const refuseValues = (index: number, values: readonly number[]): Instruction[] => [
    [LOAD, 0, 0, argument(index)],
    ...values.flatMap((value): Instruction[] => [[JUMP_EQUAL, 0, 1, value >>> 0], fail(EPERM)]),
    allow,
  ];

  for (const call of NEVER) on(call, [fail(EPERM)]);
  on("io_uring_setup", [fail(ENOSYS)]);
  // The C library falls back to clone(), whose flags a filter can read.
  on("clone3", [fail(ENOSYS)]);
  on("clone", [[LOAD, 0, 0, argument(0)], [JUMP_BITS, 0, 1, CLONE_NEWUSER], fail(EPERM), allow]);
  on("unshare", [[LOAD, 0, 0, argument(0)], [JUMP_BITS, 0, 1, CLONE_NEWUSER], fail(EPERM), allow]);
  if (!network) {
    on("socket", [[LOAD, 0, 0, argument(0)], [JUMP_EQUAL, 1, 0, AF_UNIX], fail(EAFNOSUPPORT), allow]);
  }
  if (protectedIds.length > 0) {
    // -1 is everybody that may be signalled, the server included.
    const everybody = -1;
    const group = protectedGroup === undefined ? [] : [-protectedGroup];
    on("kill", refuseValues(0, [everybody, ...group, ...protectedIds]));
    on("tgkill", refuseValues(0, protectedIds));
    on("rt_sigqueueinfo", refuseValues(0, protectedIds));
    on("rt_tgsigqueueinfo", refuseValues(0, protectedIds));
    // These name threads and files instead of processes; both have older calls that programs fall back to.
    on("tkill", [fail(EPERM)]);
    on("pidfd_send_signal", [fail(ENOSYS)]);
    for (const call of ["fcntl", "ioctl"] as const) on(call, refuseValues(1, SET_OWNER[call]));
    for (const [call, index] of ON_OTHERS) {
      on(call, [[LOAD, 0, 0, argument(index)], [JUMP_EQUAL, 1, 0, 0], fail(EPERM), allow]);
    }
  }
  program.push(allow);
  return encode(program);
}

/** Conditional jumps reach 255 instructions; a filter has at most 4096 (BPF_MAXINSNS). */
const LONGEST_JUMP = 255;

function encode(program: readonly Instruction[]): Buffer | undefined {
  if (program.some(([, ifTrue, ifFalse]) => Math.max(ifTrue, ifFalse) > LONGEST_JUMP)) return undefined;
  const bytes = Buffer.alloc(program.length * 8);
  program.forEach(([code, ifTrue, ifFalse, k], at) => {
    bytes.writeUInt16LE(code, at * 8);
    bytes.writeUInt8(ifTrue, at * 8 + 2);
    bytes.writeUInt8(ifFalse, at * 8 + 3);
    bytes.writeUInt32LE(k >>> 0, at * 8 + 4);
  });
  return bytes;
}
