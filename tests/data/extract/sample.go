// Package sample is documented.
package sample

import (
	"fmt"
	log "github.com/x/logging"
)

// Max is the limit.
const Max = 3

const (
	// A is the first.
	A, B = iota, 2
	_, C
)

var total, other int

var (
	handlers = map[string]func(){"x": func() { hidden := 1; _ = hidden; var also int; _ = also }}
)

/*
Box holds.
*/
type Box[T any] struct {
	Size, Depth int `json:"size"`
	// Name is its name.
	Name string
	fmt.Stringer
	inner struct{ Deep bool }
}

type (
	Shape interface {
		Area() float64
		fmt.Stringer
	}
	ID = string
	Level int
	Visit func(*Box[int]) error
)

// Open opens.
func (b *Box[T]) Open(force bool) (err error) { local := 1; _ = local; const inner = 2; type nested struct{ X int }; return nil }

func (Level) String() string { return log.Sprint("x") }

func New[T any]() *Box[T] {
	return &Box[T]{Size: Max}
}

func init() {}
