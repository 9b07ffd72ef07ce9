/* The reference protocol of docs/REFERENCES.md for one object of process 0 and the other processes, with the loss of at most one.
 *
 * Checked: freed only when no live process holds a reference and no message from a live process carries one; when nothing more can
 * happen and the owner lives, it is freed, and nobody waits for anything. Run by ./dev model. */

#ifndef N
#define N 3 /* processes */
#endif
#ifndef SENDS
#define SENDS 4 /* references passed in one run */
#endif
#ifndef LOSSES
#define LOSSES 1
#endif

mtype = { GOT, HOLD, HELD, DROP, FENCE, FENCED }

/* Control messages, from one to another, arrive in order. Data messages have a lane of their own. */
#define CH(from, to) ((from) * N + (to))
chan control[N * N] = [6] of { mtype, byte };
chan data[N * N] = [1] of { bit };

bool alive[N] = true;
bool knows[N * N];       /* [CH(i, k)]: i has been told that k is lost */
bool has[N];             /* the application has a reference */
bool entry[N];           /* a holder's entry exists */
byte asked[N];           /* 0: registered; else the number of its hold */
byte number[N];          /* of the last hold */
bool transit[N * N];     /* a transfer is under way and not answered */
byte owes[N * N];        /* [CH(i, k)]: i answers k's transfer when that hold has been worked off; 0: nothing */
bool holder[N];          /* at the owner: the set */
bool fencing[N];
bool fence_waits[N * N]; /* [CH(i, k)]: i waits for k's answer */
bool must_answer[N * N]; /* [CH(i, k)]: k's fence is here and not answered */
byte lost = N;           /* who is lost; N: nobody */
byte sends, losses;
bool freed;

inline say(from, to, what, n) {
  if :: alive[to] -> control[CH(from, to)]!what(n) :: else fi
}

/* For what holds of any process; N is 3 or 4. */
#if N > 3
#define ANY(array, i) (array[CH(i, 0)] || array[CH(i, 1)] || array[CH(i, 2)] || array[CH(i, 3)])
#else
#define ANY(array, i) (array[CH(i, 0)] || array[CH(i, 1)] || array[CH(i, 2)])
#endif
#define HELD_BY_ANY (holder[1] || holder[2] || holder[N - 1])

inline check_not_held() {
  for (j : 0 .. N - 1) {
    assert(!(alive[j] && has[j]));
    for (h : 0 .. N - 1) { assert(!(alive[j] && alive[h] && j != h && len(data[CH(j, h)]) > 0)) }
  }
  j = 0;
  h = 0
}

/* A reference from process k has arrived at i. */
inline arrived(i, k) {
  has[i] = true;
  if
  :: i == 0 -> say(i, k, GOT, 0)
  :: i != 0 && k == 0 ->
     if :: !entry[i] -> entry[i] = true; asked[i] = 0 :: else fi;
     say(i, k, GOT, 0)
  :: i != 0 && k != 0 && (knows[CH(i, 0)] || (entry[i] && asked[i] == 0)) ->
     entry[i] = true;
     say(i, k, GOT, 0)
  :: else ->
     if
     :: !entry[i] ->
        entry[i] = true;
        number[i]++;
        asked[i] = number[i];
        say(i, 0, HOLD, number[i])
     :: else
     fi;
     owes[CH(i, k)] = asked[i]
  fi
}

/* Holds up to n have been worked off: what was owed for them is paid. */
inline registered(i, n) {
  if :: asked[i] != 0 && asked[i] <= n -> asked[i] = 0 :: else fi;
  for (j : 0 .. N - 1) {
    if
    :: owes[CH(i, j)] != 0 && owes[CH(i, j)] <= n -> owes[CH(i, j)] = 0; say(i, j, GOT, 0)
    :: else
    fi
  }
  j = 0
}

/* Process i is told that k is lost: nothing more is read from it, nothing is owed to it or by it. What it held, and what was on the way to
 * it, is struck when all have answered. */
inline told(i, k) {
  knows[CH(i, k)] = true;
  do :: len(data[CH(k, i)]) > 0 -> data[CH(k, i)]?_ :: else -> break od;
  do :: len(control[CH(k, i)]) > 0 -> control[CH(k, i)]?_, _ :: else -> break od;
  owes[CH(i, k)] = 0;
  if :: k == 0 -> registered(i, number[i]) :: else fi;
  fence_waits[CH(i, k)] = false;
  must_answer[CH(i, k)] = false;
  if
  :: i == 0 || transit[CH(i, k)] ->
     fencing[i] = true;
     for (j : 0 .. N - 1) {
       if :: j != i && j != k && alive[j] -> fence_waits[CH(i, j)] = true; say(i, j, FENCE, 0) :: else fi
     }
     j = 0
  :: else
  fi
}

inline handle(i, k) {
  control[CH(k, i)]?m, n;
  if
  :: m == GOT -> transit[CH(i, k)] = false; if :: i == 0 -> holder[k] = true :: else fi
  :: m == HOLD -> holder[k] = true; say(i, k, HELD, n)
  :: m == HELD -> registered(i, n)
  :: m == DROP -> holder[k] = false
  :: m == FENCE -> must_answer[CH(i, k)] = true
  :: m == FENCED -> fence_waits[CH(i, k)] = false
  fi;
  k = 0;
  n = 0;
  m = 0
}

proctype process(byte i) {
  byte j, h, k, n;
  mtype m;
end:
  do
  :: !alive[i] -> break

  /* Pass it on. */
  :: atomic { alive[i] && has[i] && sends < SENDS ->
       select(k : 0 .. N - 1);
       if
       :: k != i && !transit[CH(i, k)] && !knows[CH(i, k)] ->
          sends++;
          transit[CH(i, k)] = true;
          if :: alive[k] -> data[CH(i, k)]!1 :: else fi
       :: else
       fi;
       k = 0 }

  /* Let go of it. */
  :: atomic { alive[i] && has[i] -> has[i] = false }

  /* The entry is dead: drop it. */
  :: atomic { alive[i] && i != 0 && entry[i] && !has[i] && !ANY(transit, i) ->
       entry[i] = false;
       asked[i] = 0;
       say(i, 0, DROP, 0) }
  :: atomic { alive[i] && i == 0 && !freed && !has[0] && !ANY(transit, 0) && !HELD_BY_ANY -> freed = true; check_not_held() }

  /* A reference arrives from the process before, or the one before that. */
  :: atomic { alive[i] && nempty(data[CH((i + N - 1) % N, i)]) -> k = (i + N - 1) % N; data[CH(k, i)]?_; arrived(i, k); k = 0 }
  :: atomic { alive[i] && nempty(data[CH((i + N - 2) % N, i)]) -> k = (i + N - 2) % N; data[CH(k, i)]?_; arrived(i, k); k = 0 }
#if N > 3
  :: atomic { alive[i] && nempty(data[CH((i + N - 3) % N, i)]) -> k = (i + N - 3) % N; data[CH(k, i)]?_; arrived(i, k); k = 0 }
#endif

  /* A control message arrives. */
  :: atomic { alive[i] && nempty(control[CH((i + N - 1) % N, i)]) -> k = (i + N - 1) % N; handle(i, k) }
  :: atomic { alive[i] && nempty(control[CH((i + N - 2) % N, i)]) -> k = (i + N - 2) % N; handle(i, k) }
#if N > 3
  :: atomic { alive[i] && nempty(control[CH((i + N - 3) % N, i)]) -> k = (i + N - 3) % N; handle(i, k) }
#endif

  /* It is told of a loss. */
  :: atomic { alive[i] && lost != N && lost != i && !knows[CH(i, lost)] -> k = lost; told(i, k); k = 0 }

  /* A fence is answered when the loss is known and every hold has been worked off. */
  :: atomic { alive[i] && lost != N && knows[CH(i, lost)] && asked[i] == 0 && ANY(must_answer, i) && !ANY(owes, i) ->
       for (j : 0 .. N - 1) {
         if :: must_answer[CH(i, j)] -> must_answer[CH(i, j)] = false; say(i, j, FENCED, 0) :: else fi
       }
       j = 0 }
  :: atomic { alive[i] && fencing[i] && !ANY(fence_waits, i) ->
       fencing[i] = false;
       transit[CH(i, lost)] = false;
       if :: i == 0 -> holder[lost] = false :: else fi }

  /* It is lost. */
  :: atomic { alive[i] && losses < LOSSES -> losses++; lost = i; alive[i] = false }

  od
}

/* Nothing more can happen anywhere. */
proctype quiet() {
  byte i;
  timeout;
  atomic {
    assert(!alive[0] || freed);
    for (i : 0 .. N - 1) {
      assert(!alive[i] || !ANY(transit, i) && !ANY(owes, i) && !ANY(must_answer, i) && !fencing[i] && (i == 0 || !entry[i]))
    }
  }
}

init {
  atomic {
    has[0] = true;
    run process(0);
    run process(1);
    run process(2);
#if N > 3
    run process(3);
#endif
    run quiet()
  }
}
