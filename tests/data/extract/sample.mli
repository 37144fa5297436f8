(** Boxes. *)

open Base

type level = Low | High of int

(** A box. *)
type 'a t = { size : int; lid : 'a option }

val open_box : ?force:bool -> 'a t -> int
(** Opens it. *)

(** The limit. *)
val limit : int

exception Closed of string

module Inner : sig
  val deep : int
end

module type Shape = sig
  type t
  val area : t -> float
end

class point : int -> object method get_x : int end
external c_function : int -> int = "c_function"
