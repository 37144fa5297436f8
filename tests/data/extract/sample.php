<?php
namespace App\Models;

use App\Base;
use Some\{First, Second as Other};
use function Some\helper;
require_once 'lib.php';

const VERSION = '1';
define('LIMIT', 3);

/**
 * A box.
 */
#[Attribute]
abstract class Box extends Base implements Shape, \Countable
{
    use Loggable;
    public const MAX = 10, MIN = 1;
    private static int $count = 0;
    protected ?string $name, $other;

    public function __construct(private int $size, string $plain = '') { $local = 1; }

    /** Opens. */
    public function open(bool $force): static { $closure = function ($x) use ($force) { return $x; }; return $this; }
    abstract protected function go(): void;
    public static function create(): self { return new self(1); }
}

interface Shape { const SIDES = 4; public function area(): float; }
trait Loggable { private array $log = []; public function log(string $m): void { Logger::write($m); } }
enum Level: string { case Low = 'l'; case High = 'h'; public function label(): string { return 'x'; } }
final class Point { public function __construct(public readonly int $x) {} }

function top(int $a, &...$rest): ?int { return $a; }
$global = fn($x) => $x * 2;
