(** The module. *)
open Base
open! Core.Std
module M = Map.Make (String)

(** The limit. *)
let limit = 3

type level = Low | High of int

(** A box. *)
type 'a box = {
  mutable size : int;  (** bytes *)
  lid : 'a option;
}
and visit = int -> unit

exception Closed of string

(** Opens it. *)
let open_box ?(force = false) box =
  let local = 1 in
  let inner x = x + local in
  inner box.size + limit

let rec even n = n = 0 || odd (n - 1)
and odd n = n <> 0 && even (n - 1)

let anonymous = fun x -> x
let a, b = 1, 2
let ( <+> ) a b = a + b

module type Shape = sig
  type t
  val area : t -> float
end

module Inner (X : Shape) : sig val deep : int end = struct
  let deep = 1
  let helper () = X.area
end

class point x_init = object (self)
  val mutable x = x_init
  method get_x = x
  method private move d = x <- x + d
end

external c_function : int -> int = "c_function"
let () = print_int (open_box { size = 1; lid = None })
let%test "x" = true
