/** Keys, values and operands of one request; etcd's default. Larger things belong in a blob store. */
export const requestBytesMax = 1.5 * 2 ** 20;
/** Operations of one transaction list; etcd's default. Bounds the time an entry takes to apply. */
export const txnOpsMax = 128;
/** Levels of transactions within transactions; each costs a level of recursion. */
export const txnDepthMax = 8;
/** Keys, values and overhead of one range answer; beyond it the answer says `more`. */
export const rangeBytesMax = 3 * 2 ** 20;

/** Shorter leases would be lost to one slow disk sync. */
export const leaseTtlMsMin = 100;
/** Clocks are read in whole milliseconds: without it a lease could end a fraction of one early. */
export const leaseSlackMs = 1;
/** etcd's bound, in milliseconds; keeps deadlines exact. */
export const leaseTtlMsMax = 9_000_000_000_000;
/** Bounds memory and snapshot; a fleet of ten thousand hosts needs a tenth of it. */
export const leasesCountMax = 100_000;
/** Leases that end in one log entry, so that a mass expiry does not hold up writes. */
export const leasesExpiredPerEntryMax = 500;

/** Answers remembered for repeated calls: how long, how many, how large. */
export const callKeyTtlMs = 24 * 3_600_000;
export const callKeysCountMax = 20_000;
export const callKeysBytesMax = 64 * 2 ** 20;
export const callAnswerBytesMax = 256 * 1024;

/** Client sessions kept; the one unused for longest makes room. A fleet's components need a tenth of it. */
export const sessionsCountMax = 10_000;
/** Writes of a session under way or not yet known to be answered. */
export const sessionUnansweredMax = 128;
/** Answers of all sessions together. */
export const sessionAnswersBytesMax = 64 * 2 ** 20;

/** Namespaces with a quota: each is looked at for every write, by length of prefix. */
export const quotasCountMax = 1_000;
export const namespaceBytesMax = 1_024;

/** Members that may be known, going or coming ones too. */
export const membersCountMax = 32;

/** Of one stream; more belong into a range or another stream. */
export const watchesPerStreamMax = 1_000;
/** Of this member; bounds the work a write causes. */
export const watchesCountMax = 100_000;
/** What waits for one slow reader before it is cut off. */
export const watchQueueMessagesMax = 4_096;
export const watchQueueBytesMax = 8 * 2 ** 20;
/** Rows of history read at once while a watch catches up; writes go on in between. */
export const watchCatchUpRows = 256;

/** Watches of leases, and changes that wait for a slow reader of one. */
export const leaseWatchesCountMax = 1_000;
export const leaseWatchQueueEventsMax = 10_000;

/** Calls that wait for a lock, an election or its observation; each holds a call of the server. */
export const keyWaitsCountMax = 2_048;

/** How often a leader looks at deadlines; leases end at most this late. */
export const leaseCheckMs = 100;
/** How much lease time a change of leader may give back: the clock is written at least this often while leases exist. */
export const leaseClockSaveMs = 2_000;
/** A process that did not run for longer (stopped, overloaded) does not count the time: clients had no chance. */
export const leaseClockStepMsMax = 1_000;
