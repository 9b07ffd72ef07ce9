/* The reference protocol of docs/REFERENCES.md for one object that is migrated while references to it are held, passed on and dropped, with the loss
 * of at most one process. Process 0 is process 1 of the cluster: it is not lost, and holds are registered with it whose owner is. Process 1 makes
 * the object. With RECORD process 0 has a record of it: the object is not migrated, but when its owner is lost process 0 succeeds that one, and may
 * appoint another. refs.pml has what is passed without moves, further.
 *
 * Checked: freed only when no live process holds a reference and no message from a live process carries one, unless its owner is lost (and there
 * is no record); when nothing more can happen, no process knows of it, and nobody waits for anything. Run by ./dev model, with each of
 * check: -DSENDS=2 -DMOVES=1 -DLOSSES=1
 * check: -DSENDS=1 -DMOVES=2 -DLOSSES=1
 * check: -DSENDS=2 -DMOVES=2 -DLOSSES=0
 * check: -DSENDS=2 -DMOVES=1 -DLOSSES=1 -DRECORD
 */

#ifndef SENDS
#define SENDS 2 /* references passed in one run */
#endif
#ifndef MOVES
#define MOVES 2
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#define N 3
#define TELLS 3 /* answers that one may owe another */
#define DRIVER 0
#define MAKER 1

mtype = { GOT, HOLD, HELD, DROP, FENCE, FENCED, MOVED, TOLD, ENDED, REF, ADOPT, ADOPTED }

/* Control messages, from one to another, arrive in order. Data messages (transfers; the request that hands the object over, and its answer,
 * which Lua looks at when it has time) in any order. */
#define CH(from, to) ((from) * N + (to))
#define TELL(i, k, which) (CH(i, k) * TELLS + (which))
#define ANY(array, i) (array[CH(i, 0)] || array[CH(i, 1)] || array[CH(i, 2)])
chan control[N * N] = [6] of { mtype, byte, byte };
chan data[N * N] = [3] of { mtype, byte, byte };

bool alive[N] = true;
bool knows[N * N];       /* [CH(i, k)]: i has been told that k is lost */
bool has[N];             /* the application has a reference */
bool entry[N];
byte at[N];              /* the entry: the owner, as known there */
byte moves[N];           /* by which move the object came there */
byte left[N];            /* by which move it left here */
bool value[N];           /* ours */
byte asked[N];           /* 0: registered; else the number of the hold */
byte number[N * N];      /* [CH(i, r)]: of the last hold that r was told */
byte holder[N * N];      /* [CH(i, k)]: the owner's holders; a former owner's, who must be told, and how often they have not said so */
bool transit[N * N];     /* a transfer is under way and not answered */
byte said_at[N * N], said_moves[N * N]; /* where it says that the object is */
byte owes[N * N];        /* [CH(i, k)]: i answers k's transfer when that hold has been worked off; 0: nothing */
byte owes_by[N * N];     /* by whom */
byte tells[N * N * TELLS];   /* [TELL(i, k, which)]: i answers k that it has noted that move (and 1 more), when */
byte tells_hold[N * N * TELLS]; /* that hold has been worked off (0: it has) */
byte tells_by[N * N * TELLS];   /* by that process, */
byte tells_sent[N * N * TELLS]; /* and those transfers have ended: a bit for each receiver, and OBJECT */
byte handing[N];         /* the object is being handed over: to whom, and 1 more */
byte object[N];          /* that message is a transfer, too */
byte object_moves[N];
byte job[N];             /* it has come here: from whom, and 1 more */
byte job_moves[N];
bool fencing[N];
bool fence_waits[N * N]; /* [CH(i, k)]: i waits for k's answer */
bool keeps[N];           /* until they have */
bool must_answer[N * N]; /* [CH(i, k)]: k's fence is here and not answered */
byte lost = N;           /* who is lost; N: nobody */
byte sends, moved, losses;
#ifdef RECORD
bool record = true;      /* process 0 has one: */
byte record_owner = MAKER;
#endif

#define OBJECT N
#define BIT(k) (1 << (k))
#define IS_OWNER(i) (entry[i] && at[i] == i)
#define REGISTRAR(i, o) ((knows[CH(i, o)] && i != DRIVER) -> DRIVER : (o))

inline say(from, to, what, x, y) {
  if :: alive[to] -> control[CH(from, to)]!what(x, y) :: else fi
}

#ifdef RECORD
#define IS_SAFE(o) false /* it outlives its owner */
#else
/* Who takes o for the owner need not care: the object is lost with a process, or it has been handed on by one that is lost before its own answer
 * came, so that there are two. */
#define IS_SAFE(o) (!alive[o] || (value[o] && o != i) || (entry[o] && at[o] != o && !alive[at[o]]))
#endif

inline check_not_held() {
  for (j : 0 .. N - 1) {
    assert(!(alive[j] && has[j]) || IS_SAFE(at[j]));
    assert(!(alive[j] && job[j]) || !alive[job[j] - 1]);
    for (h : 0 .. N - 1) {
      assert(!(alive[j] && alive[h] && j != h && data[CH(j, h)]??[REF, _, _]) || IS_SAFE(said_at[CH(j, h)]))
    }
  }
  j = 0;
  h = 0
}

/* Entry i, of an object of another's, is registered there. */
inline ask(i) {
  r = REGISTRAR(i, at[i]);
  if
  :: knows[CH(i, r)] -> asked[i] = 0
  :: else ->
     number[CH(i, r)]++;
     asked[i] = number[CH(i, r)];
     say(i, r, HOLD, asked[i], 1)
  fi;
  r = 0
}

inline check_tell(i, k, w) {
  if
  :: tells[TELL(i, k, w)] != 0 && tells_hold[TELL(i, k, w)] == 0 && tells_sent[TELL(i, k, w)] == 0 ->
     say(i, k, TOLD, tells[TELL(i, k, w)] - 1, 0);
     tells[TELL(i, k, w)] = 0
  :: else
  fi
}

/* k holds it. */
inline holds(i, k) {
  if
  :: at[i] == i -> holder[CH(i, k)] = 1
  :: else -> holder[CH(i, k)]++; say(i, k, MOVED, at[i], moves[i])
  fi
}

/* Somebody says where it is. */
inline note(i, o, m) {
  at[i] = o;
  moves[i] = m
}

/* A reference has come from another, which says that it is at o since move m. The answer has that number. */
inline arrived(i, from_p, o, m, which) {
  if
  :: !entry[i] ->
     entry[i] = true;
     left[i] = 0;
     note(i, o, m);
     if :: o == from_p -> asked[i] = 0 :: else -> ask(i) fi
  :: else ->
     if
     :: m > moves[i] && at[i] != i ->
        note(i, o, m);
        if :: o == from_p -> asked[i] = 0 :: else -> ask(i) fi
     :: else -> if :: o == from_p && at[i] == from_p -> asked[i] = 0 :: else fi
     fi
  fi;
  if
  :: o == from_p || at[i] == i || asked[i] == 0 -> say(i, from_p, GOT, which, 0)
  :: else ->
     owes[CH(i, from_p)] = asked[i];
     owes_by[CH(i, from_p)] = REGISTRAR(i, at[i])
  fi
}

/* A transfer of i's has ended. */
inline ended(i, ended_bit) {
  for (j : 0 .. N - 1) {
    for (w : 0 .. TELLS - 1) {
      if
      :: tells_sent[TELL(i, j, w)] & BIT(ended_bit) ->
         tells_sent[TELL(i, j, w)] = tells_sent[TELL(i, j, w)] & ~BIT(ended_bit);
         check_tell(i, j, w)
      :: else
      fi
    }
  }
  j = 0;
  w = 0
}

/* What i has asked r, up to n, has been worked off. */
inline registered(i, r, n) {
  if :: asked[i] != 0 && asked[i] <= n && REGISTRAR(i, at[i]) == r -> asked[i] = 0 :: else fi;
  for (j : 0 .. N - 1) {
    if
    :: owes[CH(i, j)] != 0 && owes[CH(i, j)] <= n && owes_by[CH(i, j)] == r -> owes[CH(i, j)] = 0; owes_by[CH(i, j)] = 0; say(i, j, GOT, 0, 0)
    :: else
    fi;
    for (w : 0 .. TELLS - 1) {
      if
      :: tells_hold[TELL(i, j, w)] != 0 && tells_hold[TELL(i, j, w)] <= n && tells_by[TELL(i, j, w)] == r ->
         tells_hold[TELL(i, j, w)] = 0;
         tells_by[TELL(i, j, w)] = 0;
         check_tell(i, j, w)
      :: else
      fi
    }
  }
  j = 0;
  w = 0
}

/* It is at o, since move m: all who have held it here are told. */
inline leave(i, o, m) {
  note(i, o, m);
  left[i] = m;
  for (j : 0 .. N - 1) {
    if :: holder[CH(i, j)] -> say(i, j, MOVED, o, m) :: else fi
  }
  j = 0
}

/* k, which has owned it, says that it is at o since move m. */
inline told_place(i, k, o, m) {
  w = 0;
  do :: w < TELLS && tells[TELL(i, k, w)] != 0 -> w++ :: else -> break od;
  assert(w < TELLS);
  if
  :: entry[i] && m > moves[i] && at[i] != i -> note(i, o, m); ask(i)
  :: entry[i] && m > moves[i] && at[i] == i -> /* k has it of us, and has handed it on, before its answer has been looked at */
     holder[CH(i, k)] = 1;
     leave(i, o, m);
     ask(i)
  :: else
  fi;
  tells[TELL(i, k, w)] = m + 1;
  if
  :: entry[i] ->
     for (j : 0 .. N - 1) {
       if
       :: transit[CH(i, j)] && said_moves[CH(i, j)] < m -> tells_sent[TELL(i, k, w)] = tells_sent[TELL(i, k, w)] | BIT(j)
       :: else
       fi
     }
     j = 0;
     if :: object[i] && object_moves[i] < m -> tells_sent[TELL(i, k, w)] = tells_sent[TELL(i, k, w)] | BIT(OBJECT) :: else fi;
     if
     :: at[i] != i && asked[i] != 0 -> tells_hold[TELL(i, k, w)] = asked[i]; tells_by[TELL(i, k, w)] = REGISTRAR(i, at[i])
     :: else
     fi
  :: else
  fi;
  check_tell(i, k, w);
  w = 0
}

/* What was registered, or was to be, with the lost k is so with process 0 now; who waits for k waits for that. */
#define WAITS(i, j, w, by) (tells_hold[TELL(i, j, w)] != 0 && tells_by[TELL(i, j, w)] == by)

inline change_registrar(i, k) {
  h = 0;
  if :: entry[i] && at[i] == k && asked[i] != 0 -> ask(i); h = asked[i] :: else fi;
  for (j : 0 .. N - 1) {
    if
    :: (owes[CH(i, j)] != 0 && owes_by[CH(i, j)] == k) || WAITS(i, j, 0, k) || WAITS(i, j, 1, k) || WAITS(i, j, 2, k) ->
       if :: h == 0 -> number[CH(i, DRIVER)]++; h = number[CH(i, DRIVER)]; say(i, DRIVER, HOLD, h, 0) :: else fi;
       if :: owes[CH(i, j)] != 0 && owes_by[CH(i, j)] == k -> owes[CH(i, j)] = h; owes_by[CH(i, j)] = DRIVER :: else fi;
       for (w : 0 .. TELLS - 1) {
         if :: WAITS(i, j, w, k) -> tells_hold[TELL(i, j, w)] = h; tells_by[TELL(i, j, w)] = DRIVER :: else fi
       }
       w = 0
    :: else
    fi
  }
  j = 0;
  h = 0
}

/* Process i is told that k is lost. */
inline told(i, k) {
  knows[CH(i, k)] = true;
  do :: len(data[CH(k, i)]) > 0 -> data[CH(k, i)]?_, _, _ :: else -> break od;
  do :: len(control[CH(k, i)]) > 0 -> control[CH(k, i)]?_, _, _ :: else -> break od;
  owes[CH(i, k)] = 0;
  owes_by[CH(i, k)] = 0;
  for (w : 0 .. TELLS - 1) {
    tells[TELL(i, k, w)] = 0;
    tells_hold[TELL(i, k, w)] = 0;
    tells_by[TELL(i, k, w)] = 0;
    tells_sent[TELL(i, k, w)] = 0
  }
  w = 0;
  if
  :: i != DRIVER -> change_registrar(i, k)
  :: else -> if :: entry[i] && at[i] == k -> asked[i] = 0 :: else fi; registered(i, k, 255)
  fi;
  fence_waits[CH(i, k)] = false;
  must_answer[CH(i, k)] = false;
  if
  :: handing[i] == k + 1 -> handing[i] = 0; if :: at[i] != i -> value[i] = false :: else fi /* else the call fails: it stays here */
  :: else
  fi;
  if
  :: transit[CH(i, k)] || holder[CH(i, k)] || object[i] == k + 1 ->
     fencing[i] = true;
     for (j : 0 .. N - 1) {
       if :: j != i && j != k && alive[j] -> fence_waits[CH(i, j)] = true; say(i, j, FENCE, 0, 0) :: else fi
     }
     j = 0
  :: else
  fi
}

/* All have answered. */
inline strike(i) {
  fencing[i] = false;
  keeps[i] = false;
  holder[CH(i, lost)] = 0;
  if :: transit[CH(i, lost)] -> transit[CH(i, lost)] = false; ended(i, lost) :: else fi;
  if :: object[i] == lost + 1 -> object[i] = 0; ended(i, OBJECT) :: else fi
}

/* Process 0 has made itself the owner, and takes all for holders. It has told of the loss first. */
inline taken_over(i, o, m) {
  if :: lost != N && !knows[CH(i, lost)] -> told(i, lost) :: else fi;
  if
  :: !entry[i] -> entry[i] = true; left[i] = 0; note(i, o, m); ask(i)
  :: entry[i] && m > moves[i] -> note(i, o, m); ask(i)
  :: else
  fi
}

inline handle(i, k) {
  control[CH(k, i)]?t, a, b;
  if
#ifdef RECORD
  :: t == MOVED && a == k -> taken_over(i, a, b)
  :: t == ENDED -> record = false
#endif
  :: t == GOT && a == 0 ->
     if :: transit[CH(i, k)] && said_at[CH(i, k)] == i -> holds(i, k) :: else fi;
     transit[CH(i, k)] = false;
     ended(i, k)
  :: t == GOT && a == 1 ->
     if :: object[i] == k + 1 -> holds(i, k); object[i] = 0; ended(i, OBJECT) :: else fi
  :: t == HOLD ->
     if :: b == 1 && entry[i] -> holds(i, k) :: else fi;
     say(i, k, HELD, a, 0)
  :: t == HELD -> registered(i, k, a)
  :: t == DROP -> if :: IS_OWNER(i) -> holder[CH(i, k)] = 0 :: else fi
#ifdef RECORD
  :: t == MOVED && a != k -> told_place(i, k, a, b)
#else
  :: t == MOVED -> told_place(i, k, a, b)
#endif
  :: t == TOLD -> if :: entry[i] && at[i] != i && a >= left[i] && holder[CH(i, k)] > 0 -> holder[CH(i, k)]-- :: else fi
  :: t == FENCE -> must_answer[CH(i, k)] = true
  :: t == FENCED -> fence_waits[CH(i, k)] = false
  fi;
  t = 0;
  a = 0;
  b = 0;
  k = 0
}

/* A data message from k. */
inline take(i, k) {
  if
  :: data[CH(k, i)]??[REF, _, _] -> data[CH(k, i)]??REF, a, b; arrived(i, k, a, b, 0); has[i] = true
  :: !job[i] && data[CH(k, i)]??[ADOPT, _, _] ->
     data[CH(k, i)]??ADOPT, a, b;
     arrived(i, k, k, b - 1, 1);
     job[i] = k + 1;
     job_moves[i] = b
  :: data[CH(k, i)]??[ADOPTED, _, _] -> /* it leaves */
     data[CH(k, i)]??ADOPTED, a, b;
     if
     :: handing[i] == k + 1 ->
        handing[i] = 0;
        value[i] = false;
        if
        :: at[i] == i ->
           holder[CH(i, k)] = 1; /* it may have passed on references that say they are here */
           asked[i] = 0;         /* it has been told that we hold it */
#ifdef RECORD
           record_owner = k;
#endif
           h = moves[i] + 1;
           leave(i, k, h);
           h = 0
        :: else
        fi
     :: else
     fi
  :: else
  fi;
  a = 0;
  b = 0;
  k = 0
}

#define PINNED(i) (keeps[i] || has[i] || job[i] || handing[i] || object[i] || ANY(transit, i))

proctype process(byte i) {
  byte j, h, k, r, a, b, w;
  mtype t;
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
          said_at[CH(i, k)] = at[i];
          said_moves[CH(i, k)] = moves[i];
          if :: alive[k] -> data[CH(i, k)]!REF(at[i], moves[i]) :: else fi
       :: else
       fi;
       k = 0 }

  /* Let go of it. */
  :: atomic { alive[i] && has[i] -> has[i] = false }

  /* Hand the object over. */
#ifdef RECORD
  :: atomic { i == DRIVER && record && record_owner == DRIVER && IS_OWNER(i) && !handing[i] && !object[i] && moved < MOVES -> /* it appoints another */
#else
  :: atomic { alive[i] && has[i] && IS_OWNER(i) && !handing[i] && !object[i] && moved < MOVES ->
#endif
       select(k : 0 .. N - 1);
       if
       :: k != i && !knows[CH(i, k)] ->
          moved++;
          handing[i] = k + 1;
          object[i] = k + 1;
          object_moves[i] = moves[i];
          if :: alive[k] -> data[CH(i, k)]!ADOPT(0, moves[i] + 1) :: else fi
       :: else
       fi;
       k = 0 }

  /* It is ours, once all have been told that it had left here before. */
  :: atomic { alive[i] && job[i] && !handing[i] && (at[i] == i || !ANY(holder, i)) ->
       k = job[i] - 1;
       job[i] = 0;
       if :: !knows[CH(i, k)] || fencing[i] -> holder[CH(i, k)] = 1 :: else fi;
       at[i] = i;
       asked[i] = 0;
       value[i] = true;
       moves[i] = job_moves[i];
       if :: alive[k] -> data[CH(i, k)]!ADOPTED(0, 0) :: else fi;
       k = 0 }

  /* The entry is dead. */
  :: atomic { alive[i] && entry[i] && !PINNED(i) && !ANY(holder, i) ->
       if
       :: at[i] == i ->
          value[i] = false;
          check_not_held();
#ifdef RECORD
          if :: i == DRIVER -> record = false :: else -> say(i, DRIVER, ENDED, 0, 0) fi
#endif
       :: else -> r = REGISTRAR(i, at[i]); if :: !knows[CH(i, r)] -> say(i, r, DROP, 0, 0) :: else fi; r = 0
       fi;
       entry[i] = false;
       asked[i] = 0;
       at[i] = 0;
       moves[i] = 0;
       left[i] = 0 }

  :: atomic { alive[i] && nempty(data[CH((i + 1) % N, i)]) -> k = (i + 1) % N; take(i, k) }
  :: atomic { alive[i] && nempty(data[CH((i + 2) % N, i)]) -> k = (i + 2) % N; take(i, k) }
  :: atomic { alive[i] && nempty(control[CH((i + 1) % N, i)]) -> k = (i + 1) % N; handle(i, k) }
  :: atomic { alive[i] && nempty(control[CH((i + 2) % N, i)]) -> k = (i + 2) % N; handle(i, k) }

  /* It is told of a loss. */
  :: atomic { alive[i] && lost != N && lost != i && !knows[CH(i, lost)] -> k = lost; told(i, k); k = 0 }

  /* A fence is answered when the loss is known and every hold has been worked off. */
  :: atomic { alive[i] && lost != N && knows[CH(i, lost)] && asked[i] == 0 && ANY(must_answer, i) && !ANY(owes, i) ->
       for (j : 0 .. N - 1) {
         if :: must_answer[CH(i, j)] -> must_answer[CH(i, j)] = false; say(i, j, FENCED, 0, 0) :: else fi
       }
       j = 0 }
  :: atomic { alive[i] && fencing[i] && !ANY(fence_waits, i) -> strike(i) }

#ifdef RECORD
  /* Process 0 succeeds the lost owner, and takes all for holders. It keeps the object until all have heard of that: a drop that is on its way ends
   * what it takes a process for, and that one may have something more of the lost. */
  :: atomic { i == DRIVER && record && lost == record_owner && knows[CH(i, lost)] && !fencing[i] ->
       entry[i] = true;
       moves[i]++; /* the record's is not higher: there is no move but process 0's own */
       left[i] = moves[i];
       at[i] = i;
       asked[i] = 0;
       record_owner = i;
       for (j : 1 .. N - 1) {
         if
         :: j != lost ->
            holder[CH(i, j)] = 1;
            say(i, j, MOVED, i, moves[i]);
            fence_waits[CH(i, j)] = true;
            say(i, j, FENCE, 0, 0)
         :: else -> holder[CH(i, j)] = 0
         fi
       }
       j = 0;
       fencing[i] = true;
       keeps[i] = true }
#endif

  /* It is lost. */
  :: atomic { alive[i] && i != DRIVER && losses < LOSSES ->
       losses++;
       lost = i;
       alive[i] = false }
  od
}

/* Nothing more can happen anywhere. */
proctype quiet() {
  byte i, w;
  timeout;
  atomic {
    for (i : 0 .. N - 1) {
      assert(!alive[i] || !ANY(transit, i) && !ANY(owes, i) && !ANY(must_answer, i) && !fencing[i]);
      for (w : 0 .. N * TELLS - 1) { assert(!alive[i] || tells[i * N * TELLS + w] == 0) }
      assert(!alive[i] || !entry[i] && !handing[i] && !job[i] && !object[i])
    }
  }
}

init {
  atomic {
    has[MAKER] = true;
    entry[MAKER] = true;
    value[MAKER] = true;
    at[MAKER] = MAKER;
    run process(0);
    run process(1);
    run process(2);
    run quiet()
  }
}
