defmodule App.Box do
  @moduledoc """
  A box.
  """
  use GenServer
  alias App.{Lid, Other}
  alias App.Base, as: B
  import Enum, only: [map: 2]
  require Logger

  @limit 3
  @type t :: %__MODULE__{size: integer}
  @typep secret :: atom
  @callback handle(term) :: :ok
  defstruct [:size, name: "x"]

  @doc """
  Opens it.
  """
  @spec open(t, boolean) :: :ok
  def open(%__MODULE__{} = box, force \\ false) when is_boolean(force) do
    local = @limit
    Lid.lift(box, local)
  end

  def open(nil, _), do: :error

  @doc "Closes."
  def close, do: helper(1)

  # Helps.
  defp helper(a), do: a |> map(& &1)
  defmacro twice(x) do
    quote do: unquote(x) * 2
  end
  defguard is_big(x) when x > 10
  defdelegate size(x), to: Other
  def a + b, do: 1

  defmodule Inner do
    def deep(x), do: x
  end
  defexception [:message]
end

defprotocol App.Shape do
  @doc "Its area."
  def area(shape)
end

defimpl App.Shape, for: App.Box do
  def area(box), do: box.size
end
