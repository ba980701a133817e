package gate

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
)

func TestOfThoseThatWaitTheHighestRankGoesFirstAndThenTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, order := New(1), []string{}
		if err := g.Enter(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		impatient, leave := context.WithCancel(t.Context())
		var failed error
		go func() { failed = g.Enter(impatient, 9) }()
		for i, rank := range []int64{2, 5, 2, 7, 0} {
			synctest.Wait()
			go func() {
				if err := g.Enter(t.Context(), rank); err != nil {
					t.Error(err)
				}
				order = append(order, fmt.Sprint(rank, "#", i))
				g.Leave()
			}()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		if failed == nil || len(order) != 0 {
			t.Errorf("who left got %v; in are %v", failed, order)
		}
		g.Leave()
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[7#3 5#1 2#0 2#2 0#4]" {
			t.Errorf("they went in the order %s", got)
		}
		if g.free != 1 {
			t.Errorf("%d places are free at the end", g.free)
		}
	})
}

func TestNobodyWaitsForEverWhileOthersOfHigherRankKeepComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Fair(1)
		if err := g.Enter(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		small := false
		go func() {
			if g.Enter(t.Context(), 1) == nil {
				small = true
				g.Leave()
			}
		}()
		synctest.Wait()
		for n := 1; !small; n++ {
			if n > oldestEach {
				t.Fatalf("%d others went before it", n-1)
			}
			go func() { // a bigger one comes before the place is given back
				if err := g.Enter(t.Context(), 9); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			g.Leave()
			synctest.Wait()
		}
		g.Leave()
	})
}
