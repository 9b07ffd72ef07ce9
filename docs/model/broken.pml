/* The reference protocol of docs/REFERENCES.md for one object of process 0 and the other processes, none of which is lost, while connections
 * between them break: what was under way is lost from any point on, in either direction, and each end notices at any later time. Both may open
 * the next at once, and then there are two. What i has to say to k is gathered, and sent at any later time (tarn__refs_flush).
 *
 * Checked: freed only when no process holds a reference, and none that arrives is to what has been freed, unless it counts as lost; when nothing more
 * can happen it is freed, and nobody waits for anything; no numbers and queues grow without end. Run by ./dev model, with each of
 * check: -DN=2 -DSENDS=2 -DBREAKS=1
 * check: -DN=2 -DSENDS=2 -DBREAKS=1 -DBEGIN=2 -DCONNS=4
 * check: -DN=2 -DSENDS=1 -DBREAKS=2 -DCONNS=5
 * check: -DN=3 -DSENDS=2 -DBREAKS=1
 * check: -DN=2 -DSENDS=1 -DBREAKS=1 -DTELLS=2
 * check: -DN=2 -DSENDS=1 -DBREAKS=1 -DBEGIN=2 -DCONNS=4 -DTELLS=2
 * check: -DN=2 -DSENDS=2 -DBREAKS=0 -DRESTS=2 -DCONNS=4
 * check: -DN=2 -DSENDS=1 -DBREAKS=1 -DRESTS=1
 * check: -DN=2 -DSENDS=2 -DBREAKS=0 -DRESTS=2 -DBEGIN=2 -DCONNS=5
 * check: -DN=3 -DSENDS=2 -DBREAKS=0 -DRESTS=1
 *
 * With RESTS connections are closed so many times because they are idle (idle.c): the lower of the two asks, the other withdraws, the lower withdraws
 * and closes it if it has sent nothing since. Checked, too: nothing is under way on one that is closed, and by such an end alone (BREAKS=0) no transfer is lost.
 *
 * With TELLS no references are passed, and process 0 tells process 1 so many times of one move (refs.moved), at any time, and that one says of each at any later time that it has
 * noted it (refs.told). Checked: all counts as noted only when the last has arrived, and in the end it does.
 *
 * Each of these takes out what mends a fault, and is to fail (./dev model -DNO_DEPART, and so on):
 *   NO_DEPART        who has passed a first reference, and heard nothing, does not ask: it is never freed
 *   NO_SECOND_ASK    what was written to a connection that had broken is not asked about again: never freed
 *   NO_ASK_AT_FIRST  nor is it where nothing had come by that one before: never freed
 *   NO_ASK_THERE     nor is it (two breaks, as in the third check) where one changes away and back: never freed
 *   OLD_SYNC         a sync that has been overtaken makes an older connection the channel again: what is said is heard no more
 *   NO_ASK_AGAIN     who changes its channel does not ask again: what it had asked before is passed over
 *   NO_HOLD_AGAIN    a held that was lost is waited for, and so is who waits for that
 *   ALWAYS_DEAF      whoever asks makes the other change its channel: two that ask at once do so for ever
 *   LATE             what arrives after done has been said counts: freed while held
 *   NO_HERE          (with RESTS) who has withdrawn does not say where it speaks: what it says next, on a connection that overtakes the end, is passed over
 *   NO_CHANGE        (with RESTS) the lower closes it though it has sent something since it asked
 *   NO_TELL_AGAIN    (with TELLS, as in the last check) a moved, or told, that is lost is not said anew: it is waited for
 *   NO_ROUND         (with TELLS) what answers the one that was lost, too, counts for the one that was said anew */

#ifndef N
#define N 3 /* processes: 2 or 3 */
#endif
#ifndef SENDS
#define SENDS 2 /* references passed in one run, at most 4 */
#endif
#ifndef BREAKS
#define BREAKS 1
#endif
#ifndef CONNS
#define CONNS 3 /* connections of two processes at a time */
#endif
#ifndef BEGIN
#define BEGIN 1 /* of them at the beginning: 1, or 2, as when both have called the other at once */
#endif

#ifndef RESTS
#define RESTS 0
#endif

mtype = { SYNC, HERE, GOT, HOLD, HELD, DROP, DONE, ASK, SEEN, MOVED, TOLD }

#define BIT(t) (1 << (t))
#define CH(i, k) ((i) * N + (k))
#define QUEUE 12 /* messages under way in one direction: more is an error */
#define PAIRS (N * (N - 1) / 2)
#define PAIR(i, k) ((i) + (k) - 1)

/* A connection of two, one of CONNS; 0 is none. An end is open until it has noticed that the connection is broken, and then reads no more. */
#define CONN(i, k, c) (PAIR(i, k) * CONNS + (c) + 1)
#define ALL (PAIRS * CONNS + 1)
#define END(c, i, k) ((c) * 2 + ((i) > (k)))  /* of i, towards k */
chan control[ALL * 2] = [QUEUE] of { mtype, byte, bool }; /* [END(c, i, k)]: what i has written; in order */
chan data[ALL * 2] = [SENDS] of { byte };             /* transfers, not in order relative to that: the bulk lane */
bool open[ALL * 2];
bool broken[ALL];
byte breaks;

#define GONE 255    /* a connection that is no more */
byte main[N * N];   /* [CH(i, k)]: which i calls k on */
byte leaves_by[N * N];    /* where what i says about references goes */
byte comes_by[N * N];     /* where what k says about them comes from; 0: nothing has come yet */

#define TO_ASK 255
bool has[N];        /* the application has a reference */
bool entry[N];
byte asked[N];      /* 0: registered; else the number of its hold */
byte number[N * N]; /* [CH(i, k)]: of the last hold, or sync, that i has said to k */
byte held[N * N];   /* up to which k has worked them off */
bool holder[N];     /* at the owner: the set */
bool freed;

/* What i is to say to k. */
bool busy[N * N];
bool must_sync[N * N], must_ask[N * N];
#if RESTS
byte rests;
bool must_here[N * N];
bool unchanged[ALL];  /* the lower has asked, and sent nothing on it since */
bool asks_rest[ALL];  /* that question is under way, and the higher has neither sent nor heard anything on it since */
bool withdrawn[ALL];  /* the higher begins nothing on it */
bool agrees[ALL];     /* the higher has said so, which is under way */
#define SENT(c, i, k) if :: (i) < (k) -> unchanged[c] = false :: else -> asks_rest[c] = false; assert(!withdrawn[c]) fi
#define CAME(c, i, k) \
  if \
  :: (i) > (k) -> \
     asks_rest[c] = false; \
     if :: withdrawn[c] -> withdrawn[c] = false; if :: main[CH(i, k)] == 0 -> main[CH(i, k)] = c :: else fi :: else fi \
  :: else -> unchanged[c] = false \
  fi
#define FORGET_REST(c) unchanged[c] = false; asks_rest[c] = false; withdrawn[c] = false; agrees[c] = false
#else
#define SENT(c, i, k) skip
#define CAME(c, i, k) skip
#define FORGET_REST(c) skip
#endif

bool must_hold[N * N]; /* a hold of nothing, to be told again of those before it */
byte say_got[N * N], say_done[N * N]; /* a bit for each transfer */
byte say_held[N * N];
#ifndef OLD_SYNC
byte heard[N * N];  /* the number of the last hold, or sync, of k that i has heard */
#define NEWER(i, k, n) ((n) > heard[CH(i, k)])
#define HEAR(i, k, n) heard[CH(i, k)] = n
#else
#define NEWER(i, k, n) true
#define HEAR(i, k, n) skip
#endif

#ifndef LATE
byte asked_of[N * N];   /* k has asked i about transfers of numbers below that, whose connection is no more, */
byte seen_of[ALL * 2];  /* [END(c, i, k)]: and about those below that, which have taken this one */
#define IN_TIME(i, k, t) ((t) >= asked_of[CH(i, k)] && (t) >= seen_of[END(c, i, k)])
#define ASKED_OF(array, t) if :: t >= array -> array = t + 1 :: else fi
#else
#define IN_TIME(i, k, t) true
#define ASKED_OF(array, t) skip
#endif

/* Transfers, by number. */
byte sends;
byte from[SENDS], to[SENDS];
bool pending[SENDS];    /* at the sender */
byte via[SENDS];        /* the connection it has taken; 0: that is no more */
byte owes[SENDS];       /* at the receiver: got is said when that hold has been worked off; 0: nothing */
byte owes_done[SENDS * N]; /* [t * N + k]: and done when k has worked off that one */

#define OF(t, i) (pending[t] && from[t] == i)
#if SENDS == 1
#define PASSES(i) OF(0, i)
#elif SENDS == 2
#define PASSES(i) (OF(0, i) || OF(1, i))
#elif SENDS == 3
#define PASSES(i) (OF(0, i) || OF(1, i) || OF(2, i))
#else
#define PASSES(i) (OF(0, i) || OF(1, i) || OF(2, i) || OF(3, i))
#endif

#ifdef NO_DEPART
bool party[N * N];  /* [CH(i, k)]: i has a record of k */
#define KNOWS(i, k) party[CH(i, k)]
#define MEET(i, k) party[CH(i, k)] = true
#else
#define KNOWS(i, k) true
#define MEET(i, k) skip
#endif

#ifdef TELLS
#define ROUNDS 6
byte tells;           /* how often 0 has told 1 that it has moved */
byte untold;          /* how often 1 has not answered that, in this round */
byte say_moved;
byte round;
byte noted;           /* at 1: the last that has arrived of tells */
byte owes_told[ROUNDS]; /* and how often it has yet to answer that round */
byte say_told[ROUNDS];

/* What 1 was told of moves may be lost, or its answer: all is said anew. */
inline tell_anew(i) {
#ifndef NO_TELL_AGAIN
  if
  :: i == 0 && untold > 0 -> round++; assert(round < ROUNDS); untold = 1; say_moved = 1
  :: else
  fi
#else
  skip
#endif
}

inline say_moves(i, k) {
  if
  :: i == 0 && say_moved > 0 -> put(MOVED, round * 16 + say_moved * 4 + tells, 0); say_moved = 0
  :: else
  fi;
  if
  :: i == 1 ->
     for (j : 0 .. ROUNDS - 1) {
       if :: say_told[j] > 0 -> put(TOLD, j * 16 + say_told[j], 0); say_told[j] = 0 :: else fi
     }
     j = 0
  :: else
  fi
}

inline hear_moved(n) {
  noted = n % 4;
  owes_told[n / 16] = owes_told[n / 16] + (n / 4) % 4
}

#ifdef NO_ROUND
#define IN_ROUND(n) true
#else
#define IN_ROUND(n) ((n) / 16 == round)
#endif
inline hear_told(n) {
  if
  :: IN_ROUND(n) && untold > 0 ->
     untold = (n % 16 > untold -> 0 : untold - n % 16);
     if :: untold == 0 -> assert(noted == tells) :: else fi
  :: else
  fi
}

#define MOVES(i) \
  :: atomic { i == 0 && tells < TELLS -> d_step { tells++; untold++; say_moved++; busy[CH(0, 1)] = true } } \
  :: atomic { i == 1 && owes_told[0] > 0 -> d_step { note_told(0) } } \
  :: atomic { i == 1 && owes_told[1] > 0 -> d_step { note_told(1) } } \
  :: atomic { i == 1 && owes_told[2] > 0 -> d_step { note_told(2) } } \
  :: atomic { i == 1 && owes_told[3] > 0 -> d_step { note_told(3) } } \
  :: atomic { i == 1 && owes_told[4] > 0 -> d_step { note_told(4) } } \
  :: atomic { i == 1 && owes_told[5] > 0 -> d_step { note_told(5) } }
#define note_told(r) owes_told[r] = owes_told[r] - 1; say_told[r] = say_told[r] + 1; busy[CH(1, 0)] = true
#endif

/* Fewer hold the entry, or the object. */
inline check(i) {
  if
  :: i == 0 && !freed && !has[0] && !PASSES(0) && !holder[1] && !holder[N - 1] ->
     freed = true;
     for (j : 1 .. N - 1) { assert(!has[j]) }
     j = 0
  :: i != 0 && entry[i] && !has[i] && !PASSES(i) -> busy[CH(i, 0)] = true
  :: else
  fi
}

inline put(what, x, y) {
  if
  :: !broken[c] -> assert(nfull(control[END(c, i, k)])); control[END(c, i, k)]!what(x, y)
  :: else
  fi;
  SENT(c, i, k)
}

inline connect(i, k) {
  c = CONN(i, k, 0);
  do
  :: c == CONN(i, k, CONNS) -> assert(false)
  :: c != CONN(i, k, CONNS) && (open[END(c, i, k)] || open[END(c, k, i)] || broken[c]) -> c++
  :: else -> break
  od;
  open[END(c, i, k)] = true;
  main[CH(i, k)] = c
}

/* i does not hear k: if k has not noticed that their connection is broken, it is to change to this one. */
#ifdef ALWAYS_DEAF
#define DEAF(i, k) 1
#else
#define DEAF(i, k) (comes_by[CH(i, k)] == 0 || comes_by[CH(i, k)] == GONE)
#endif

/* i says what it has to say to k. */
inline flush(i, k) {
  busy[CH(i, k)] = false;
  MEET(i, k);
  c = leaves_by[CH(i, k)];
  if :: c == 0 -> c = main[CH(i, k)] :: else fi;
  if :: c == 0 -> connect(i, k) :: else fi;
  leaves_by[CH(i, k)] = c;
  ask = 0;
  if
  :: must_ask[CH(i, k)] ->
     must_ask[CH(i, k)] = false;
     for (j : 0 .. SENDS - 1) {
       if :: OF(j, i) && to[j] == k && via[j] == 0 -> ask = ask | BIT(j) :: else fi
     }
     j = 0;
#ifdef TELLS
     tell_anew(i);
#endif
     x = true
  :: else
  fi;
  hold = false; /* is there one, or a sync */
  if
  :: must_sync[CH(i, k)] ->
     must_sync[CH(i, k)] = false;
     hold = true;
     number[CH(i, k)]++;
     assert(number[CH(i, k)] < 20);
     for (j : 0 .. SENDS - 1) {
       if :: k == 0 && to[j] == i && owes[j] != 0 -> owes[j] = number[CH(i, k)] :: else fi;
       if :: to[j] == i && owes_done[j * N + k] != 0 -> owes_done[j * N + k] = number[CH(i, k)] :: else fi
     }
     j = 0;
     if :: k == 0 && entry[i] -> asked[i] = number[CH(i, k)] :: else fi;
     put(SYNC, number[CH(i, k)], (k == 0 && entry[i]))
#if RESTS && !defined(NO_HERE)
  :: !must_sync[CH(i, k)] && must_here[CH(i, k)] ->
     hold = true;
     number[CH(i, k)]++;
     put(HERE, number[CH(i, k)], (k == 0 && entry[i] && asked[i] == TO_ASK));
     if :: k == 0 && entry[i] && asked[i] == TO_ASK -> asked[i] = number[CH(i, k)] :: else fi
#endif
  :: else
  fi;
#if RESTS
  must_here[CH(i, k)] = false;
#endif
  if :: say_got[CH(i, k)] != 0 -> put(GOT, say_got[CH(i, k)], 0); say_got[CH(i, k)] = 0 :: else fi;
  if
  :: !hold && k == 0 && entry[i] && asked[i] == TO_ASK ->
     number[CH(i, k)]++;
     asked[i] = number[CH(i, k)];
     put(HOLD, number[CH(i, k)], 1)
  :: !hold && !(k == 0 && entry[i] && asked[i] == TO_ASK) ->
     for (j : 0 .. SENDS - 1) {
       if
       :: to[j] == i && ((k == 0 && owes[j] == number[CH(i, k)] + 1) || owes_done[j * N + k] == number[CH(i, k)] + 1) -> hold = true
       :: else
       fi
     }
     j = 0;
     hold = hold || must_hold[CH(i, k)];
     if :: hold -> number[CH(i, k)]++; put(HOLD, number[CH(i, k)], 0) :: else fi
  :: else
  fi;
  must_hold[CH(i, k)] = false;
  if :: say_held[CH(i, k)] != 0 -> put(HELD, say_held[CH(i, k)], 0); say_held[CH(i, k)] = 0 :: else fi;
  if
  :: k == 0 && entry[i] && !has[i] && !PASSES(i) -> entry[i] = false; asked[i] = 0; put(DROP, 0, 0)
  :: else
  fi;
  if :: say_done[CH(i, k)] != 0 -> put(DONE, say_done[CH(i, k)], 0); say_done[CH(i, k)] = 0 :: else fi;
#ifdef TELLS
  say_moves(i, k);
#endif
  if :: ask != 0 -> put(ASK, ask, DEAF(i, k)) :: else fi;
  if
  :: x ->
     n = c;
     for (t : 0 .. CONNS - 1) {
       c = CONN(i, k, t);
       a = 0;
       for (j : 0 .. SENDS - 1) {
         if :: OF(j, i) && to[j] == k && via[j] == c -> a = a | BIT(j) :: else fi
       }
       if :: a != 0 -> put(SEEN, a, 0) :: else fi
     }
     c = n;
     n = 0;
     a = 0;
     j = 0;
     t = 0
  :: else
  fi;
  x = false;
  ask = 0;
  hold = false
}

/* Transfer t is answered by what. */
#define ANSWER(t, what) \
  what[CH(to[t], from[t])] = what[CH(to[t], from[t])] | BIT(t); \
  busy[CH(to[t], from[t])] = true; \
  MEET(to[t], from[t])

/* Transfer t from k has arrived at i. */
inline arrived(i, k, t) {
  if
  :: !IN_TIME(i, k, t) -> assert(BREAKS > 0) /* it is as good as lost, and k has been told so, or will be */
  :: i == 0 && IN_TIME(i, k, t) ->
     assert(!freed);
     has[i] = true;
     ANSWER(t, say_got)
  :: else ->
     assert(!freed);
     has[i] = true;
     if :: !entry[i] -> entry[i] = true; asked[i] = TO_ASK; busy[CH(i, 0)] = true :: else fi;
     MEET(i, 0);
     if
     :: k == 0 -> asked[i] = 0; ANSWER(t, say_got)
     :: k != 0 && asked[i] == 0 -> ANSWER(t, say_got)
     :: k != 0 && asked[i] == TO_ASK -> owes[t] = number[CH(i, 0)] + 1
     :: else -> owes[t] = asked[i]
     fi
  fi
}

/* k asks i what became of transfer t: what is to be said to others before that is answered must have been worked off. */
inline asked_for(i, k, t) {
  hold = false;
  for (j : 0 .. N - 1) {
    if
    :: j != i && owes_done[t * N + j] != 0 -> hold = true
    :: j != i && owes_done[t * N + j] == 0 ->
       n = number[CH(i, j)];
       if :: j == 0 && entry[i] && asked[i] == TO_ASK -> n++ :: else fi;
       if :: n > held[CH(i, j)] -> owes_done[t * N + j] = n; hold = true :: else fi
    :: else
    fi
  }
  j = 0;
  if :: !hold -> ANSWER(t, say_done) :: else fi;
  hold = false
}

/* What i has said to k, up to n, has been worked off. */
inline registered(i, k, n) {
  if :: n > held[CH(i, k)] -> held[CH(i, k)] = n :: else fi;
  if :: k == 0 && asked[i] != TO_ASK && asked[i] <= n -> asked[i] = 0 :: else fi;
  for (t : 0 .. SENDS - 1) {
    if :: k == 0 && to[t] == i && owes[t] != 0 && owes[t] <= n -> owes[t] = 0; ANSWER(t, say_got) :: else fi;
    if
    :: to[t] == i && owes_done[t * N + k] != 0 && owes_done[t * N + k] <= n ->
       owes_done[t * N + k] = 0;
       hold = false;
       for (j : 0 .. N - 1) { hold = hold || owes_done[t * N + j] != 0 }
       j = 0;
       if :: !hold -> ANSWER(t, say_done) :: else fi;
       hold = false
    :: else
    fi
  }
  t = 0
}

inline holds(k) {
  if :: !freed -> holder[k] = true :: else fi
}

/* Its messages have come by another connection before, or may have been lost on one. */
#if defined(NO_SECOND_ASK)
#define ASKS_AGAIN(i, k, c) false
#elif defined(NO_ASK_AT_FIRST)
#define ASKS_AGAIN(i, k, c) (comes_by[CH(i, k)] != 0 && comes_by[CH(i, k)] != c)
#elif defined(NO_ASK_THERE)
#define ASKS_AGAIN(i, k, c) (m == SYNC && comes_by[CH(i, k)] != c)
#else
#define ASKS_AGAIN(i, k, c) (m == SYNC)
#endif
#ifdef NO_HOLD_AGAIN
#define HOLDS_AGAIN(i, k) false
#else
#define HOLDS_AGAIN(i, k) (m == SYNC && number[CH(i, k)] > held[CH(i, k)])
#endif

/* A message from k about references has come to i by connection c. */
inline handle(i, k) {
  control[END(c, k, i)]?m, n, x;
  CAME(c, i, k);
  MEET(i, k);
  if
  :: (comes_by[CH(i, k)] == 0 && m != SEEN) || ((m == SYNC || m == HERE) && NEWER(i, k, n)) ->
     if
     :: ASKS_AGAIN(i, k, c) -> must_ask[CH(i, k)] = true; busy[CH(i, k)] = true
     :: else
     fi;
     if
     :: HOLDS_AGAIN(i, k) -> must_hold[CH(i, k)] = true; busy[CH(i, k)] = true
     :: else
     fi;
     comes_by[CH(i, k)] = c
  :: else
  fi;
  if
  :: comes_by[CH(i, k)] != c && m != SEEN
  :: else ->
     if
     :: m == SYNC ->
        if
        :: i == 0 -> holder[k] = false; if :: x -> holds(k) :: else fi
        :: else
        fi;
        say_held[CH(i, k)] = n;
        HEAR(i, k, n);
        busy[CH(i, k)] = true
     :: m == HOLD || m == HERE ->
        if :: i == 0 && x -> holds(k) :: else fi;
        say_held[CH(i, k)] = n;
        HEAR(i, k, n);
        busy[CH(i, k)] = true
     :: m == HELD -> registered(i, k, n)
     :: m == GOT || m == DONE ->
        for (t : 0 .. SENDS - 1) {
          if
          :: (n & BIT(t)) && pending[t] ->
             pending[t] = false;
             via[t] = 0;
             if :: m == GOT && i == 0 -> holds(k) :: else fi
          :: else
          fi
        }
        t = 0
     :: m == DROP -> holder[k] = false
#ifdef TELLS
     :: m == MOVED -> hear_moved(n)
     :: m == TOLD -> hear_told(n)
#endif
     :: m == ASK || m == SEEN ->
        if
        :: x -> /* k does not hear */
#ifndef NO_ASK_AGAIN
           if :: leaves_by[CH(i, k)] != c -> must_ask[CH(i, k)] = true :: else fi; /* what we have asked there may be passed over */
#endif
           leaves_by[CH(i, k)] = c;
           must_sync[CH(i, k)] = true;
           busy[CH(i, k)] = true
        :: else
        fi;
        a = n;
        for (t : 0 .. SENDS - 1) {
          if
          :: a & BIT(t) ->
             asked_for(i, k, t);
             if :: m == ASK -> ASKED_OF(asked_of[CH(i, k)], t) :: else -> ASKED_OF(seen_of[END(c, i, k)], t) fi
          :: else
          fi
        }
        a = 0;
        t = 0
     fi;
     check(i)
  fi;
  m = 0;
  n = 0;
  x = 0
}

/* End i of broken connection c with k: what it has not read is lost. */
inline notice(i, k) {
  open[END(c, i, k)] = false;
  do :: len(control[END(c, k, i)]) > 0 -> control[END(c, k, i)]?_, _, _ :: else -> break od;
  do :: len(data[END(c, k, i)]) > 0 -> data[END(c, k, i)]?_ :: else -> break od;
  for (t : 0 .. SENDS - 1) {
    if :: from[t] == i && to[t] == k && via[t] == c -> via[t] = 0 :: else fi
  }
#ifndef LATE
  seen_of[END(c, i, k)] = 0;
#endif
#if RESTS
  x = i > k && withdrawn[c]; /* all that it has said there has been worked off */
#endif
  if :: main[CH(i, k)] == c -> main[CH(i, k)] = 0 :: else fi;
  if :: comes_by[CH(i, k)] == c -> comes_by[CH(i, k)] = GONE :: else fi;
  if
  :: KNOWS(i, k) && !x ->
     must_ask[CH(i, k)] = true;
     busy[CH(i, k)] = true;
     if :: leaves_by[CH(i, k)] == c -> must_sync[CH(i, k)] = true; leaves_by[CH(i, k)] = 0 :: else fi
  :: else
  fi;
  x = false;
  if
  :: !open[END(c, k, i)] -> /* the other end has never heard of it, or has noticed: its place is free */
     do :: len(control[END(c, i, k)]) > 0 -> control[END(c, i, k)]?_, _, _ :: else -> break od;
     do :: len(data[END(c, i, k)]) > 0 -> data[END(c, i, k)]?_ :: else -> break od;
     broken[c] = false;
     FORGET_REST(c)
  :: else
  fi
}

#if RESTS
/* Nothing is open between i and k, as i knows: nothing to say, nobody waits. */
#define WAITS(t, i, k) (OF(t, i) && to[t] == (k) || to[t] == (i) && (owes[t] != 0 && (k) == 0 || owes_done[t * N + (k)] != 0))
#if SENDS == 1
#define AT_REST(i, k) (!busy[CH(i, k)] && !WAITS(0, i, k))
#else
#define AT_REST(i, k) (!busy[CH(i, k)] && !WAITS(0, i, k) && !WAITS(1, i, k))
#endif
#define SILENT(c, i, k) (empty(control[END(c, i, k)]) && empty(data[END(c, i, k)]))

/* No more will be said by i on c. */
inline withdraw(i, k) {
  if
  :: main[CH(i, k)] == c ->
     main[CH(i, k)] = 0;
     for (t : 0 .. CONNS - 1) {
       if
       :: CONN(i, k, t) != c && open[END(CONN(i, k, t), i, k)] && !(i > k && withdrawn[CONN(i, k, t)]) -> main[CH(i, k)] = CONN(i, k, t)
       :: else
       fi
     }
     t = 0
  :: else
  fi;
  if :: leaves_by[CH(i, k)] == c -> leaves_by[CH(i, k)] = 0; must_here[CH(i, k)] = true :: else fi
}

/* The lower, i, closes what the other has withdrawn from, unless it has changed its mind. */
inline close_idle(i, k) {
  agrees[c] = false;
#ifdef NO_CHANGE
  if
  :: AT_REST(i, k) ->
#else
  if
  :: unchanged[c] && AT_REST(i, k) ->
     assert(SILENT(c, i, k) && SILENT(c, k, i));
#endif
     withdraw(i, k);
     open[END(c, i, k)] = false;
     if :: comes_by[CH(i, k)] == c -> comes_by[CH(i, k)] = GONE :: else fi;
     broken[c] = true /* the other is to notice */
  :: else
  fi
}
#endif

inline pass(i, k) {
  t = sends;
  sends++;
  from[t] = i;
  to[t] = k;
  via[t] = c;
  SENT(c, i, k);
  pending[t] = true; /* with NO_DEPART: k is nobody that i has met */
  if :: !broken[c] -> data[END(c, i, k)]!t :: else fi
}

/* The other end has opened connection c. */
inline accept(i, k) {
  open[END(c, i, k)] = true;
  if :: main[CH(i, k)] == 0 -> main[CH(i, k)] = c :: else fi
}

inline use(other, s) {
  k = other;
  c = CONN(i, k, s)
}

inline done() {
  k = 0;
  c = 0;
  t = 0
}

#ifdef TELLS
#define MAY_PASS(i) false
#else
#define MAY_PASS(i) (has[i] && sends < SENDS)
#endif

#if RESTS
#define LEFT(i, k, s) ((i) > (k) && withdrawn[CONN(i, k, s)])
#else
#define LEFT(i, k, s) false
#endif
#define IS_OPEN(i, k, s) open[END(CONN(i, k, s), i, k)]

/* What process i may do with other, and on connection s of theirs. */
#define WITH(i, other) \
  :: atomic { MAY_PASS(i) && main[CH(i, other)] == 0 -> d_step { k = other; connect(i, k); pass(i, k); done() } } \
  :: atomic { busy[CH(i, other)] -> d_step { k = other; flush(i, k); done() } }

#define ON(i, other, s) \
  :: atomic { MAY_PASS(i) && IS_OPEN(i, other, s) && !LEFT(i, other, s) -> d_step { use(other, s); pass(i, k); done() } } \
  :: atomic { IS_OPEN(i, other, s) && nempty(control[END(CONN(i, other, s), other, i)]) -> d_step { use(other, s); handle(i, k); done() } } \
  :: atomic { IS_OPEN(i, other, s) && nempty(data[END(CONN(i, other, s), other, i)]) -> \
       d_step { use(other, s); data[END(c, k, i)]?t; CAME(c, i, k); arrived(i, k, t); done() } } \
  :: atomic { IS_OPEN(i, other, s) && broken[CONN(i, other, s)] -> d_step { use(other, s); notice(i, k); done() } } \
  :: atomic { !IS_OPEN(i, other, s) && IS_OPEN(other, i, s) && !broken[CONN(i, other, s)] -> d_step { use(other, s); accept(i, k); done() } } \
  :: atomic { i < other && breaks < BREAKS && (IS_OPEN(i, other, s) || IS_OPEN(other, i, s)) && !broken[CONN(i, other, s)] -> \
       d_step { breaks++; broken[CONN(i, other, s)] = true } }

#if RESTS
#define SHARED(i, other, s) (IS_OPEN(i, other, s) && IS_OPEN(other, i, s) && !broken[CONN(i, other, s)])
#define REST(i, other, s) \
  :: atomic { i < other && rests < RESTS && SHARED(i, other, s) && !agrees[CONN(i, other, s)] && AT_REST(i, other) && \
       SILENT(CONN(i, other, s), i, other) && SILENT(CONN(i, other, s), other, i) -> \
       d_step { rests++; unchanged[CONN(i, other, s)] = true; asks_rest[CONN(i, other, s)] = true } } \
  :: atomic { i > other && asks_rest[CONN(i, other, s)] && SHARED(i, other, s) && AT_REST(i, other) -> \
       d_step { use(other, s); asks_rest[c] = false; withdrawn[c] = true; withdraw(i, k); agrees[c] = true; done() } } \
  :: atomic { i < other && agrees[CONN(i, other, s)] && SHARED(i, other, s) -> d_step { use(other, s); close_idle(i, k); done() } }
#endif

proctype process(byte i) {
  byte j, k, t, n, c, ask, a;
  bool hold, x;
  mtype m;
end:
  do
  :: atomic { has[i] -> has[i] = false; d_step { check(i) } }
#ifdef TELLS
  MOVES(i)
#endif

#if RESTS
  REST(i, (i + 1) % N, 0)
  REST(i, (i + 1) % N, 1)
#if CONNS > 2
  REST(i, (i + 1) % N, 2)
#endif
#if CONNS > 3
  REST(i, (i + 1) % N, 3)
#endif
#endif
  WITH(i, (i + 1) % N)
  ON(i, (i + 1) % N, 0)
  ON(i, (i + 1) % N, 1)
#if CONNS > 2
  ON(i, (i + 1) % N, 2)
#endif
#if CONNS > 3
  ON(i, (i + 1) % N, 3)
#endif
#if CONNS > 4
  ON(i, (i + 1) % N, 4)
#endif
#if N > 2
#if RESTS
  REST(i, (i + 2) % N, 0)
  REST(i, (i + 2) % N, 1)
#if CONNS > 2
  REST(i, (i + 2) % N, 2)
#endif
#endif
  WITH(i, (i + 2) % N)
  ON(i, (i + 2) % N, 0)
  ON(i, (i + 2) % N, 1)
#if CONNS > 2
  ON(i, (i + 2) % N, 2)
#endif
#if CONNS > 3
  ON(i, (i + 2) % N, 3)
#endif
#endif
  od
}

/* Nothing more can happen anywhere. */
proctype quiet() {
  byte i;
  timeout;
  atomic {
    assert(freed);
    for (i : 0 .. SENDS - 1) { assert(!pending[i] && owes[i] == 0) }
    for (i : 0 .. SENDS * N - 1) { assert(owes_done[i] == 0) }
    for (i : 1 .. N - 1) { assert(!entry[i]) }
#ifdef TELLS
    assert(untold == 0)
#endif
  }
}

init {
  byte i, k;
  atomic {
    has[0] = true;
    for (i : 0 .. N - 1) {
      for (k : 0 .. N - 1) {
        if
        :: i != k ->
           open[END(CONN(i, k, 0), i, k)] = true;
           main[CH(i, k)] = CONN(i, k, 0);
#if BEGIN > 1
           open[END(CONN(i, k, 1), i, k)] = true;
           if :: i > k -> main[CH(i, k)] = CONN(i, k, 1) :: else fi;
#endif
        :: else
        fi
      }
    }
    i = 0;
    k = 0;
    run process(0);
    run process(1);
#if N > 2
    run process(2);
#endif
    run quiet()
  }
}
